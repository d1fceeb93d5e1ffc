#pragma once
// What a program finds outside itself and may change: elements of tensors, gradients of leaves, the random generator.
#include <string>
#include <utility>
#include <vector>

#include "reprise/core/random.h"
#include "reprise/core/tensor.h"

namespace rp {

/// One thing that a run has left, for comparison.
struct Observation {
  std::string label;
  DType dtype = DType::boolean;
  Shape shape{};
  std::vector<std::byte> bytes{};
  const void* owner = nullptr;  // of state: what has it
  bool made = true;             // false: undefined, or never computed
  int result = -1;              // of the function, by number
};

Observation observed(std::string label, const Tensor& t);

/// Where two observations of one thing differ: "element 3 is 1 eagerly, 2 captured". Empty if nowhere. `tolerance` is
/// a share of the greatest element; 0 asks for equal bits.
std::string difference(const Observation& eager, const Observation& other, const char* how, double tolerance);

class World {
 public:
  World() : generator_(generator()) {}

  /// Another call of the program begins.
  void begin_call() { ++call_; }
  /// Takes note of a tensor before it is used: its elements, and grad() of the leaves that it is or derives from.
  void see(const Tensor& t);
  /// Puts everything back as it was when it was first seen.
  void restore() const;
  void observe(const std::string& label, std::vector<Observation>& list) const;
  /// From now on, `observe` leaves out the values that the program had made itself: those that nobody else holds, or
  /// that only one of several calls has seen. Returns their owners.
  std::vector<const void*> leave_out_temporaries();

 private:
  struct Uses {
    int calls = 0, last = -1;
    bool compared = true;
    void note(int call) { calls += std::exchange(last, call) != call; }
  };
  struct Elements {
    Tensor handle;
    std::vector<std::byte> bytes;
    bool written;  // has a history of writes on the gradient tape
    Uses uses{};
  };
  struct Leaf {
    Tensor leaf, grad;
    Uses uses{};
  };
  void see_elements(const Tensor& t);
  int call_ = 0;
  Generator generator_;
  std::vector<Elements> elements_;
  std::vector<Leaf> leaves_;
};

}  // namespace rp
