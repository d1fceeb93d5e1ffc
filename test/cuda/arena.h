#pragma once
#include <cstddef>
#include <map>
#include <string>

namespace rp::fake {

/// Device memory on the processor: nobody can read or write it but while an `Arena::Open` lives. What is allocated and
/// what is freed consists of NaNs (all bits ones); zones between allocations show who writes outside.
class Arena {
 public:
  /// Lets this process touch the memory while it lives.
  class Open {
   public:
    explicit Open(Arena& arena);
    ~Open();
    Open(const Open&) = delete;

   private:
    Arena& arena_;
  };

  explicit Arena(size_t limit);
  ~Arena();
  Arena(const Arena&) = delete;

  /// Null if `limit` bytes would be exceeded.
  void* allocate(size_t bytes);
  /// Whether an allocation that is not freed begins there.
  bool is_start(const void* data) const { return live_.contains(static_cast<char*>(const_cast<void*>(data))); }
  void free(void* data);
  bool contains(const void* address) const;
  /// Whether all of it lies in one allocation.
  bool holds(const void* data, size_t bytes) const;
  /// The first allocation that somebody has written beside; empty if there is none.
  std::string damage();

  size_t in_use() const { return in_use_; }
  size_t allocations() const { return live_.size(); }

 private:
  void poison(char* data, size_t bytes);

  char* base_;
  size_t limit_, in_use_ = 0;
  char* touched_;  // the end of what was ever in use
  int open_ = 0;
  std::map<char*, size_t> live_, free_;  // by address; free ones are never neighbours
};

}  // namespace rp::fake
