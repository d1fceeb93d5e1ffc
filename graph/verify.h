#pragma once
// rp::verify: one call that runs a function eagerly and captured and compares everything that it leaves behind.
#include <functional>
#include <string>
#include <tuple>
#include <type_traits>
#include <vector>

#include "reprise/core/error.h"
#include "reprise/graph/tree.h"

namespace rp {

struct VerifyOptions {
  int calls = 4;          ///< of each form; the elements of the arguments are moved along by one in every second call
  bool gradients = true;  ///< of all leaves that the results reach; of the sum of the results
  bool loops = true;      ///< scans are compared with their bodies called step by step, too
  bool throws = false;    ///< a difference throws an Error with the report's text
};

/// What `verify` has found.
struct VerifyReport {
  bool ok = true;
  std::string text;        ///< everything below as sentences; what was compared if nothing differs
  std::string difference;  ///< what differed first: "call 2: result[1].h, f32[3]: element 0 is 1 eagerly, 2 captured"
  std::string rewrite;     ///< what causes it: a name of REPRISE_DISABLE, "kernel", "plan", "record" or "derive"
  std::string op, line;    ///< the first wrong op, and its " file.cpp:41"
};

namespace detail {
/// A function of structures seen from inside the library: the arguments' tensors in, the result's out.
struct VerifiedFunction {
  std::function<Tensors(const Tensors& arguments)> call;
  std::function<std::string(size_t)> result_name;
};
VerifyReport verify(const VerifiedFunction& f, const Tensors& arguments, const VerifyOptions& options);
}  // namespace detail

/// Runs `f(arguments...)` several times eagerly and captured, each from the same state, and compares bit for bit: the
/// returned tensors, the gradients, the elements of all tensors from outside that it reads or writes, what `backward`
/// leaves in their grad(), and the position of the random generator. Then everything is put back as it was. What else
/// `f` changes (its own variables, files) must not influence what it computes. On a difference, it looks for the
/// rewrite and the op that cause it.
template <class F, class... A>
VerifyReport verify(const VerifyOptions& options, F&& f, const A&... arguments) {
  const std::tuple<A...> given(arguments...);
  std::vector<std::string> names;
  const auto call = [&](const Tensors& tensors) -> Tensors {
    const auto apply = [&] { return std::apply(f, detail::with_tensors(given, tensors.data())); };
    if constexpr (std::is_void_v<decltype(apply())>) {
      apply();
      return {};
    } else {
      const auto result = apply();
      const Tensors results = detail::tensors_of(result);
      names.clear();
      for (size_t i = 0; i < results.size(); ++i) names.push_back(detail::path_of(result, i));
      return results;
    }
  };
  return detail::verify({call, [&](size_t i) { return i < names.size() ? names[i] : ""; }}, detail::tensors_of(given),
                        options);
}

template <class F, class... A>
  requires(!std::is_same_v<std::remove_cvref_t<F>, VerifyOptions>)
VerifyReport verify(F&& f, const A&... arguments) {
  return verify(VerifyOptions{}, f, arguments...);
}

}  // namespace rp
