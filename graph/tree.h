#pragma once
// Structures of tensors: a Tensor, a container or tuple of structures, or an aggregate whose members are structures.
// Members that hold no tensors are carried along unchanged.
#include <array>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "reprise/core/tensor.h"

namespace rp::detail {

struct AnyValue {
  template <class T>
  operator T&() const;
  template <class T>
  operator T&&() const;
};

template <class T, size_t... I>
constexpr bool initialises(std::index_sequence<I...>) {
  return requires { T{(static_cast<void>(I), AnyValue())...}; };
}

inline constexpr size_t max_members = 8;

/// How many members an aggregate has, up to eight.
template <class T, size_t N = max_members>
constexpr size_t member_count() {
  if constexpr (N == 0 || initialises<T>(std::make_index_sequence<N>()))
    return N;
  else
    return member_count<T, N - 1>();
}

/// References to an aggregate's members.
template <class T>
constexpr auto members(T& t) {
  constexpr size_t n = member_count<std::remove_const_t<T>>();
  if constexpr (n == 0) {
    return std::tie();
  } else if constexpr (n == 1) {
    auto& [a] = t;
    return std::tie(a);
  } else if constexpr (n == 2) {
    auto& [a, b] = t;
    return std::tie(a, b);
  } else if constexpr (n == 3) {
    auto& [a, b, c] = t;
    return std::tie(a, b, c);
  } else if constexpr (n == 4) {
    auto& [a, b, c, d] = t;
    return std::tie(a, b, c, d);
  } else if constexpr (n == 5) {
    auto& [a, b, c, d, e] = t;
    return std::tie(a, b, c, d, e);
  } else if constexpr (n == 6) {
    auto& [a, b, c, d, e, f] = t;
    return std::tie(a, b, c, d, e, f);
  } else if constexpr (n == 7) {
    auto& [a, b, c, d, e, f, g] = t;
    return std::tie(a, b, c, d, e, f, g);
  } else {
    auto& [a, b, c, d, e, f, g, h] = t;
    return std::tie(a, b, c, d, e, f, g, h);
  }
}

// The name of a member is read off the compiler's spelling of its address in an object that need not exist.
template <class T>
struct Example {
  T value;
};
#if defined(__clang__)
#pragma clang diagnostic push
#pragma clang diagnostic ignored "-Wundefined-var-template"
#pragma clang diagnostic ignored "-Wundefined-internal"
#endif
template <class T>
extern const Example<T> example;

template <class P>
struct Address {
  P p;
};
template <auto Member>
constexpr std::string_view spelling() {
  return __PRETTY_FUNCTION__;
}
template <class T, size_t I>
constexpr std::string_view member_name() {
  std::string_view s = spelling<Address{&std::get<I>(members(example<T>.value))}>();
  s = s.substr(0, s.find('}', s.find("Member = ")));
  while (!s.empty() && s.back() == ')') s.remove_suffix(1);
  return s.substr(s.find_last_of(".:") + 1);
}
#if defined(__clang__)
#pragma clang diagnostic pop
#endif

template <class T>
inline constexpr bool is_tuple = false;
template <class... T>
inline constexpr bool is_tuple<std::tuple<T...>> = true;
template <class A, class B>
inline constexpr bool is_tuple<std::pair<A, B>> = true;

template <class T>
concept Range = requires(T& t) {
  t.begin();
  t.end();
  t.size();
};
template <class T>
concept Keyed = Range<T> && requires { typename T::mapped_type; };

/// Calls visit(tensor, path) for every tensor of a structure, in order; paths read ".h" or "[1].c".
template <class T, class F>
void visit_tree(T& tree, const std::string& path, F& visit) {
  using Type = std::remove_const_t<T>;
  if constexpr (std::is_same_v<Type, Tensor>) {
    visit(tree, path);
  } else if constexpr (requires {
                         tree.has_value();
                         *tree;
                       }) {
    if (tree.has_value()) visit_tree(*tree, path, visit);
  } else if constexpr (Keyed<Type>) {
    for (auto& [key, value] : tree) {
      if constexpr (std::is_convertible_v<decltype(key), std::string>)
        visit_tree(value, path + "[" + std::string(key) + "]", visit);
      else
        visit_tree(value, path + "[" + std::to_string(key) + "]", visit);
    }
  } else if constexpr (Range<Type> && !std::is_convertible_v<Type, std::string_view>) {
    size_t i = 0;
    for (auto& value : tree) visit_tree(value, path + "[" + std::to_string(i++) + "]", visit);
  } else if constexpr (is_tuple<Type>) {
    size_t i = 0;
    std::apply([&](auto&... value) { (visit_tree(value, path + "[" + std::to_string(i++) + "]", visit), ...); }, tree);
  } else if constexpr (std::is_aggregate_v<Type>) {
    [&]<size_t... I>(std::index_sequence<I...>) {
      [[maybe_unused]] auto all = members(tree);
      (visit_tree(std::get<I>(all), path + "." + std::string(member_name<Type, I>()), visit), ...);
    }(std::make_index_sequence<member_count<Type>()>());
  }
}

/// The defined tensors of a structure, in order.
template <class T>
Tensors tensors_of(const T& tree) {
  Tensors list;
  const auto add = [&](const Tensor& t, const std::string&) {
    if (t.defined()) list.push_back(t);
  };
  visit_tree(tree, "", add);
  return list;
}

/// Where a structure's defined tensor number i stands.
template <class T>
std::string path_of(const T& tree, size_t i) {
  std::string found;
  const auto look = [&](const Tensor& t, const std::string& path) {
    if (t.defined() && i-- == 0) found = path;
  };
  visit_tree(tree, "", look);
  return found;
}

/// The structure with its defined tensors replaced, in order.
template <class T>
T with_tensors(T tree, const Tensor* tensors) {
  const auto replace = [&](Tensor& t, const std::string&) {
    if (t.defined()) t = *tensors++;
  };
  visit_tree(tree, "", replace);
  return tree;
}

}  // namespace rp::detail
