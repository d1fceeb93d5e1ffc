#pragma once
// Sixteen bytes of elements at a time, for pooling: outputs are neighbours, their inputs one or two elements apart.
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace rp::cpu {

template <class T>
struct Pack {
  typedef T Type __attribute__((vector_size(16)));
};

/// Elements p[0], p[step], ...
template <class V, int step, class T>
V load(const T* p) {
  if constexpr (std::is_same_v<V, T>) {
    return *p;
  } else {
    V a, b;
    std::memcpy(&a, p, sizeof a);
    if constexpr (step == 1) return a;
    std::memcpy(&b, p + sizeof(V) / sizeof(T), sizeof b);
    if constexpr (sizeof(T) == 4)
      return __builtin_shufflevector(a, b, 0, 2, 4, 6);
    else
      return __builtin_shufflevector(a, b, 0, 2);
  }
}

template <class V, class T>
void store(T* p, V v) {
  std::memcpy(p, &v, sizeof v);
}

/// p[0], p[step], ... += v. Elements between them have zero added.
template <int step, class V, class T>
void add(T* p, V v) {
  if constexpr (std::is_same_v<V, T> || step == 1) {
    store(p, load<V, 1>(p) + v);
  } else {
    constexpr int width = sizeof(V) / sizeof(T);
    V low, high;
    if constexpr (width == 4)
      low = __builtin_shufflevector(v, V{}, 0, 4, 1, 5), high = __builtin_shufflevector(v, V{}, 2, 6, 3, 7);
    else
      low = __builtin_shufflevector(v, V{}, 0, 2), high = __builtin_shufflevector(v, V{}, 1, 2);
    store(p, load<V, 1>(p) + low);
    store(p + width, load<V, 1>(p + width) + high);
  }
}

template <class T, int step, class F>
void walk_by(int64_t n, F f) {
  using V = typename Pack<T>::Type;
  constexpr int64_t width = sizeof(V) / sizeof(T);
  int64_t j = 0;
  // With gaps, the last pack would touch the element after the last one.
  if constexpr (step == 1 || step == 2)
    for (; j + width < n + (step == 1); j += width) f.template operator()<V, step>(j);
  for (; j < n; ++j) f.template operator()<T, step>(j);
}

/// Calls f<V, step>(j) for elements j on of n, V being T or a pack of it. The body should hold what it needs by value:
/// then it stays in registers.
template <class T, class F>
void walk(int64_t n, int64_t step, F f) {
  if (step == 1)
    walk_by<T, 1>(n, f);
  else if (step == 2)
    walk_by<T, 2>(n, f);
  else
    walk_by<T, 0>(n, f);
}

/// Where v is the new maximum: all ones or true.
template <class T, class V>
auto larger(V v, V best) {
  if constexpr (!std::is_floating_point_v<T>)
    return v > best;
  else if constexpr (std::is_same_v<V, T>)
    return !(v <= best) & (best == best);
  else
    return ~(v <= best) & (best == best);
}

/// Where v equals a maximum, a NaN being equal to a NaN.
template <class T, class V>
auto matches(V v, V best) {
  if constexpr (!std::is_floating_point_v<T>)
    return v == best;
  else
    return (v == best) | ((v != v) & (best != best));
}

template <class V>
struct Pair {
  V a, b;
};

/// The two elements of a row of a window, for neighbouring windows (one lane: all their elements are neighbours).
template <class V, class T>
Pair<V> load_pair(const T* p, int64_t lanes) {
  if constexpr (std::is_same_v<V, T>)
    return {p[0], p[lanes]};
  else if (lanes > 1)
    return {load<V, 1>(p), load<V, 1>(p + lanes)};
  else {
    constexpr int width = sizeof(V) / sizeof(T);
    const V low = load<V, 1>(p), high = load<V, 1>(p + width);
    if constexpr (width == 4)
      return {__builtin_shufflevector(low, high, 0, 2, 4, 6), __builtin_shufflevector(low, high, 1, 3, 5, 7)};
    else
      return {__builtin_shufflevector(low, high, 0, 2), __builtin_shufflevector(low, high, 1, 3)};
  }
}

template <class T, class V>
void store_pair(T* p, int64_t lanes, Pair<V> v) {
  if (std::is_same_v<V, T> || lanes > 1) {
    store(p, v.a);
    store(p + lanes, v.b);
  } else if constexpr (!std::is_same_v<V, T>) {
    constexpr int width = sizeof(V) / sizeof(T);
    if constexpr (width == 4) {
      store(p, __builtin_shufflevector(v.a, v.b, 0, 4, 1, 5));
      store(p + width, __builtin_shufflevector(v.a, v.b, 2, 6, 3, 7));
    } else {
      store(p, __builtin_shufflevector(v.a, v.b, 0, 2));
      store(p + width, __builtin_shufflevector(v.a, v.b, 1, 3));
    }
  }
}

}  // namespace rp::cpu
