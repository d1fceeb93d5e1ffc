#pragma once
// Descriptors of cuDNN's graph interface: tensors, operations, engines and plans are all made of attributes.
#include <algorithm>
#include <ranges>
#include <source_location>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "reprise/backends/cuda/cudnn.h"

namespace rp::cuda {

/// An enumerator as cuDNN's header spells it, for errors: the compiler knows the name.
template <auto value>
constexpr std::string_view enumerator_name() {
  constexpr std::string_view mark = "value = ";
  std::string_view text = std::source_location::current().function_name();
  text.remove_prefix(text.find(mark) + mark.size());
  return text.substr(0, text.find_first_of(";]"));
}

/// By which name cuDNN knows attributes whose elements are of type T.
template <class T>
struct AttributeType;
template <cudnnBackendAttributeType_t type>
struct Known {
  static constexpr cudnnBackendAttributeType_t value = type;
};
template <>
struct AttributeType<int64_t> : Known<CUDNN_TYPE_INT64> {};
template <>
struct AttributeType<int32_t> : Known<CUDNN_TYPE_INT32> {};
template <>
struct AttributeType<float> : Known<CUDNN_TYPE_FLOAT> {};
template <>
struct AttributeType<double> : Known<CUDNN_TYPE_DOUBLE> {};
template <>
struct AttributeType<bool> : Known<CUDNN_TYPE_BOOLEAN> {};
template <>
struct AttributeType<char> : Known<CUDNN_TYPE_CHAR> {};
template <>
struct AttributeType<void*> : Known<CUDNN_TYPE_VOID_PTR> {};
template <>
struct AttributeType<cudnnHandle_t> : Known<CUDNN_TYPE_HANDLE> {};
template <>
struct AttributeType<cudnnDataType_t> : Known<CUDNN_TYPE_DATA_TYPE> {};
template <>
struct AttributeType<cudnnConvolutionMode_t> : Known<CUDNN_TYPE_CONVOLUTION_MODE> {};
template <>
struct AttributeType<cudnnPointwiseMode_t> : Known<CUDNN_TYPE_POINTWISE_MODE> {};
template <>
struct AttributeType<cudnnReduceTensorOp_t> : Known<CUDNN_TYPE_REDUCTION_OPERATOR_TYPE> {};
template <>
struct AttributeType<cudnnBackendHeurMode_t> : Known<CUDNN_TYPE_HEUR_MODE> {};
template <>
struct AttributeType<cudnnBackendNumericalNote_t> : Known<CUDNN_TYPE_NUMERICAL_NOTE> {};
template <>
struct AttributeType<cudnnBackendBehaviorNote_t> : Known<CUDNN_TYPE_BEHAVIOR_NOTE> {};

/// One descriptor, destroyed with this. A call that fails throws an Error with the attribute, the status and what cuDNN
/// says about it. What other descriptors it refers to need not outlive the call that sets them.
class Descriptor {
 public:
  /// An empty one of `type`.
  template <cudnnBackendDescriptorType_t type>
  static Descriptor make() {
    return Descriptor(type, enumerator_name<type>());
  }
  Descriptor(Descriptor&& other) noexcept : raw_(std::exchange(other.raw_, nullptr)), name_(other.name_) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(raw_, other.raw_);
    std::swap(name_, other.name_);
    return *this;
  }
  ~Descriptor();

  /// Sets an attribute to a value, to the elements of a range, to a text or to other descriptors.
  template <cudnnBackendAttributeName_t attribute, class T>
  Descriptor& set(const T& value) {
    constexpr std::string_view name = enumerator_name<attribute>();
    if constexpr (std::is_same_v<T, Descriptor>) {
      put(attribute, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &value.raw_);
    } else if constexpr (std::ranges::contiguous_range<T>) {
      using Element = std::ranges::range_value_t<T>;
      const auto size = static_cast<int64_t>(std::ranges::size(value));
      if constexpr (std::is_same_v<Element, Descriptor>) {
        const std::vector<cudnnBackendDescriptor_t> raw = raw_of(value);
        put(attribute, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, size, raw.data());
      } else {
        put(attribute, name, AttributeType<Element>::value, size, std::ranges::data(value));
      }
    } else {
      put(attribute, name, AttributeType<T>::value, 1, &value);
    }
    return *this;
  }

  void finalize();
  /// False, with what cuDNN says, if it does not support what is described; throws if anything else is wrong.
  bool finalize_if_supported(std::string* why);

  /// The elements of an attribute.
  template <cudnnBackendAttributeName_t attribute, class T>
  std::vector<T> get() const {
    constexpr std::string_view name = enumerator_name<attribute>();
    std::vector<T> values(static_cast<size_t>(take(attribute, name, AttributeType<T>::value, 0, nullptr)));
    if (values.empty()) return values;
    const auto size = static_cast<int64_t>(values.size());
    values.resize(
        static_cast<size_t>(std::min(size, take(attribute, name, AttributeType<T>::value, size, values.data()))));
    return values;
  }
  template <cudnnBackendAttributeName_t attribute>
  std::string get_text() const {
    const std::vector<char> text = get<attribute, char>();
    return {text.begin(), text.end()};
  }
  /// The descriptors of an attribute, which are of `type`.
  template <cudnnBackendAttributeName_t attribute, cudnnBackendDescriptorType_t type>
  std::vector<Descriptor> get() const {
    constexpr std::string_view name = enumerator_name<attribute>();
    std::vector<Descriptor> list;
    for (int64_t left = take(attribute, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 0, nullptr); left > 0; --left)
      list.push_back(make<type>());
    if (list.empty()) return list;
    std::vector<cudnnBackendDescriptor_t> raw = raw_of(list);
    const auto size = static_cast<int64_t>(raw.size());
    const int64_t given = take(attribute, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, size, raw.data());
    list.erase(list.begin() + std::min(size, given), list.end());
    return list;
  }

  cudnnBackendDescriptor_t raw() const { return raw_; }

 private:
  Descriptor(cudnnBackendDescriptorType_t type, std::string_view name);
  static std::vector<cudnnBackendDescriptor_t> raw_of(std::span<const Descriptor> list);
  void put(cudnnBackendAttributeName_t attribute, std::string_view name, cudnnBackendAttributeType_t type,
           int64_t count, const void* elements);
  /// Writes up to `count` elements and says how many there are.
  int64_t take(cudnnBackendAttributeName_t attribute, std::string_view name, cudnnBackendAttributeType_t type,
               int64_t count, void* elements) const;

  cudnnBackendDescriptor_t raw_ = nullptr;
  std::string_view name_;
};

}  // namespace rp::cuda
