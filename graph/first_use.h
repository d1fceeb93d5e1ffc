#pragma once
#include <cstdint>
#include <vector>

namespace rp {

/// Numbers keys in the order of their first use since the last `restart`. Open addressing; a restart costs nothing and
/// no memory is given back.
template <class Key, class Hash>
class FirstUse {
 public:
  FirstUse() : entries_(64) {}

  void restart() {
    ++epoch_;
    count_ = 0;
  }

  /// The key's number, -1 if it has none.
  int32_t find(const Key& key) const {
    const Entry& e = entries_[place(key)];
    return e.epoch == epoch_ ? e.number : -1;
  }

  /// The key's number; `fresh` tells whether this is its first use.
  int32_t number(const Key& key, bool& fresh) {
    Entry* e = &entries_[place(key)];
    fresh = e->epoch != epoch_;
    if (!fresh) return e->number;
    if (2 * static_cast<size_t>(count_) >= entries_.size()) {
      grow();
      e = &entries_[place(key)];
    }
    *e = {key, epoch_, count_};
    return count_++;
  }

 private:
  struct Entry {
    Key key{};
    uint64_t epoch = 0;
    int32_t number = 0;
  };

  size_t place(const Key& key) const {
    size_t at = Hash()(key) & (entries_.size() - 1);
    while (entries_[at].epoch == epoch_ && !(entries_[at].key == key)) at = (at + 1) & (entries_.size() - 1);
    return at;
  }

  void grow() {
    const std::vector<Entry> old = std::move(entries_);
    entries_.assign(old.size() * 2, Entry{});
    for (const Entry& e : old)
      if (e.epoch == epoch_) entries_[place(e.key)] = e;
  }

  std::vector<Entry> entries_;
  uint64_t epoch_ = 1;
  int32_t count_ = 0;
};

}  // namespace rp
