#pragma once
// What kernels make of a weight, such as a copy in the order in which they read it, kept beside the weight's storage
// until the weight changes.
#include <cstddef>
#include <memory>
#include <mutex>

#include "reprise/core/tensor.h"

namespace rp {

/// Of one storage: a data set whose slices are factors must not collect them.
inline constexpr int max_attachments = 8;

/// Guards the attachments of all storages.
std::mutex& attachments_mutex();

/// Whether what was made of content `seen` says nothing about content `now`.
bool stale(uint32_t seen, uint32_t now);

template <class Value, class Key>
struct Kept final : Attachment {
  static constexpr char tag = 0;
  Kept(const std::byte* data, const Key& key, uint32_t content) : data(data), key(key), content(content) {
    kind = &tag;
  }
  const std::byte* data;
  Key key;
  uint32_t content;
  std::unique_ptr<const Value> value;
};

/// What `make` makes of the elements at `data`, if they have been seen with the same content before; null on the first
/// sight, as weights that change at every step would only take memory. It lasts as long as nobody writes to the
/// storage, which nobody may while a kernel reads it. `key` says all that the value depends on beside the elements.
template <class Value, class Key, class Make>
const Value* kept(Storage& storage, const std::byte* data, const Key& key, Make make) {
  std::lock_guard lock(attachments_mutex());
  int count = 0;
  for (Attachment* a = storage.attached.get(); a; a = a->next.get(), ++count) {
    if (a->kind != &Kept<Value, Key>::tag) continue;
    auto* k = static_cast<Kept<Value, Key>*>(a);
    if (k->data != data || !(k->key == key)) continue;
    if (k->content != storage.content && (!k->value || stale(k->content, storage.content))) {
      k->content = storage.content;
      k->value = nullptr;
    } else if (!k->value) {
      k->value = make();
    }
    return k->value.get();
  }
  if (count < max_attachments) attach(storage, std::make_unique<Kept<Value, Key>>(data, key, storage.content));
  return nullptr;
}

}  // namespace rp
