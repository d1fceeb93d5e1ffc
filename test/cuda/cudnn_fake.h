#pragma once
// A cuDNN that runs graphs on the processor, in memory of the host. It knows the attributes that it is given and
// nothing about them but what it must to check and to run a graph, so it stands for any version of the library.
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "reprise/backends/cuda/cudnn.h"

namespace rp::test {

/// A descriptor: its attributes as they were set.
struct FakeDescriptor {
  struct Value {
    cudnnBackendAttributeType_t type;
    int64_t count = 0;
    std::string bytes;                                      // of plain elements
    std::vector<std::shared_ptr<FakeDescriptor>> children;  // of descriptors
  };
  cudnnBackendDescriptorType_t type;
  bool finalized = false;
  std::map<cudnnBackendAttributeName_t, Value> values;

  bool has(cudnnBackendAttributeName_t name) const { return values.contains(name); }
  const Value& at(cudnnBackendAttributeName_t name) const { return values.at(name); }
  FakeDescriptor& child(cudnnBackendAttributeName_t name) const { return *values.at(name).children.at(0); }
  template <class T>
  std::vector<T> list(cudnnBackendAttributeName_t name) const {
    const Value& v = values.at(name);
    const T* const first = reinterpret_cast<const T*>(v.bytes.data());
    return {first, first + v.bytes.size() / sizeof(T)};
  }
  template <class T>
  T one(cudnnBackendAttributeName_t name) const {
    return list<T>(name).at(0);
  }
};

/// What the fake did, and what it shall do.
struct FakeCudnn {
  int64_t calls = 0;     // to functions that can fail
  int64_t fail_at = -1;  // the number of the call that fails, from 0
  cudnnStatus_t fail_with = CUDNN_STATUS_INTERNAL_ERROR;
  int64_t live = 0;                          // descriptors that were not destroyed
  int64_t choices = 0, loads = 0, runs = 0;  // plans made from engines, plans made from text, executions
  bool refuses_everything = false;           // no engine supports any graph
};

/// What there is of it.
FakeCudnn& fake_cudnn();

/// While it lives, the library uses the fake. It runs its graphs on the fake device that lives.
class UsesFakeCudnn {
 public:
  UsesFakeCudnn();
  ~UsesFakeCudnn();
  UsesFakeCudnn(const UsesFakeCudnn&) = delete;
};

/// The tree of a descriptor as text, and back.
std::string text_of(const FakeDescriptor& descriptor);
std::shared_ptr<FakeDescriptor> descriptor_of(const std::string& text);

/// Runs the operations of a graph on memory that is named by the tensors' numbers.
void run_fake_graph(const FakeDescriptor& graph, const std::map<int64_t, void*>& memory);

}  // namespace rp::test
