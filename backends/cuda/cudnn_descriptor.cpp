#include "reprise/backends/cuda/cudnn_descriptor.h"

namespace rp::cuda {
namespace {

static_assert(enumerator_name<CUDNN_ATTR_TENSOR_STRIDES>() == "CUDNN_ATTR_TENSOR_STRIDES");

void expect(cudnnStatus_t status, std::string_view what, std::string_view of, std::string_view descriptor) {
  if (status == CUDNN_STATUS_SUCCESS) [[likely]]
    return;
  fail("cudnn: {}{}{}: {}", what, of, descriptor, Status<cudnnStatus_t>::text(status));
}

}  // namespace

Descriptor::Descriptor(cudnnBackendDescriptorType_t type, std::string_view name) : name_(name) {
  expect(cudnn().cudnnBackendCreateDescriptor.raw(type, &raw_), "creating ", "", name_);
}

Descriptor::~Descriptor() {
  if (raw_) cudnn().cudnnBackendDestroyDescriptor.raw(raw_);
}

void Descriptor::finalize() { expect(cudnn().cudnnBackendFinalize.raw(raw_), "finalizing ", "", name_); }

bool Descriptor::finalize_if_supported(std::string* why) {
  const cudnnStatus_t status = cudnn().cudnnBackendFinalize.raw(raw_);
  if (CUDNN_STATUS_CATEGORY(status) != CUDNN_STATUS_NOT_SUPPORTED) {
    expect(status, "finalizing ", "", name_);
    return true;
  }
  *why = Status<cudnnStatus_t>::text(status);
  return false;
}

std::vector<cudnnBackendDescriptor_t> Descriptor::raw_of(std::span<const Descriptor> list) {
  std::vector<cudnnBackendDescriptor_t> raw;
  for (const Descriptor& d : list) raw.push_back(d.raw_);
  return raw;
}

void Descriptor::put(cudnnBackendAttributeName_t attribute, std::string_view name, cudnnBackendAttributeType_t type,
                     int64_t count, const void* elements) {
  expect(cudnn().cudnnBackendSetAttribute.raw(raw_, attribute, type, count, elements), name, " of ", name_);
}

int64_t Descriptor::take(cudnnBackendAttributeName_t attribute, std::string_view name, cudnnBackendAttributeType_t type,
                         int64_t count, void* elements) const {
  int64_t there = 0;
  expect(cudnn().cudnnBackendGetAttribute.raw(raw_, attribute, type, count, &there, elements), name, " of ", name_);
  return there;
}

}  // namespace rp::cuda
