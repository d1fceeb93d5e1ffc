#pragma once
// Tables of functions of libraries that are loaded when they are first needed. Nothing of CUDA is linked.
#include <cstdint>
#include <string>
#include <vector>

#include "reprise/core/fail.h"

namespace rp::cuda {

class Table;

/// A function of a library by its name. It registers itself with its table, which finds its address.
class Symbol {
 public:
  Symbol(const Symbol&) = delete;
  const char* name() const { return name_; }
  /// Whether the loaded library has it.
  bool found() const { return address_; }

 protected:
  Symbol(Table& table, const char* name);
  [[noreturn]] void fail_missing() const;

  void* address_ = nullptr;

 private:
  friend class Table;
  const char* name_;
  const Table& table_;
};

/// The functions of one library: derived classes have an Entry for each.
class Table {
 public:
  explicit Table(std::string soname) : soname_(std::move(soname)) {}
  Table(const Table&) = delete;

  /// Opens the library and finds its functions. An Error says where it was looked for.
  void load();
  const std::string& soname() const { return soname_; }
  /// The size of the file that the functions come from, in which builds of one version differ; 0 if it is not known.
  uintmax_t file_bytes() const;
  const std::vector<Symbol*>& symbols() const { return symbols_; }

 private:
  friend class Symbol;
  std::string soname_;
  std::vector<Symbol*> symbols_;
};

/// What the status codes of type R mean; specialised beside the table whose functions return them:
/// `static bool ok(R)` and `static std::string text(R)`.
template <class R>
struct Status;

template <class R>
concept IsStatus = requires(R r) { Status<R>::ok(r); };

/// Throws an Error that names the call and what its status means, unless that is success.
template <IsStatus R>
void check(R status, const char* call) {
  if (!Status<R>::ok(status)) [[unlikely]]
    fail("{}: {}", call, Status<R>::text(status));
}

template <class Signature>
class Entry;

template <class R, class... P>
class Entry<R(P...)> final : public Symbol {
 public:
  using Pointer = R (*)(P...);
  Entry(Table& table, const char* name) : Symbol(table, name) {}

  void set(Pointer function) { address_ = reinterpret_cast<void*>(function); }

  /// The call as it is.
  R raw(P... p) const {
    if (!address_) [[unlikely]]
      fail_missing();
    return reinterpret_cast<Pointer>(address_)(p...);
  }

  /// The call, which must succeed if it has a status.
  auto operator()(P... p) const {
    if constexpr (IsStatus<R>)
      check(raw(p...), name());
    else
      return raw(p...);
  }
};

// A member of a table: a macro names the function once, where its type, the member and the library's symbol want it.
#define RP_ENTRY(name) \
  Entry<decltype(::name)> name { *this, #name }

/// Folders in which libraries are looked for, in order; an empty one stands for the loader's own search.
std::vector<std::string> library_folders();

}  // namespace rp::cuda
