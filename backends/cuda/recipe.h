#pragma once
// Ops of kind kernel as lists of launches.
#include <string>
#include <vector>

#include "reprise/backends/cuda/launches.h"
#include "reprise/fusion/region.h"

namespace rp::cuda {

/// A pointer that a launch is given: an operand's, one into the scratch memory, or the word for errors.
struct Pointer {
  enum class Kind : uint8_t { operand, scratch, errors } kind;
  size_t at = 0;  // which operand, or bytes from the start of the scratch memory
};
inline Pointer operand(size_t k) { return {Pointer::Kind::operand, k}; }
inline constexpr Pointer error_word{Pointer::Kind::errors};

/// Makes a launch of a text whose Args begin with `pointers`.
class Step {
 public:
  Step(std::string text, const std::vector<Pointer>& pointers);
  template <class T>
  Step& add(T value) {
    launch_.args.add(value);
    return *this;
  }
  /// A number as the text's `Index`, or a divisor.
  Step& add_index(int64_t value, bool wide);
  Step& divisor(int64_t value, bool wide);
  /// For so many pieces of work, each a thread's, or else a block's.
  Step& threads_for(int64_t pieces);
  Step& blocks_of(int64_t pieces, size_t shared_bytes = 0);
  void run(const RegionCall& call) const { launch_.run(call); }
  std::string text() const { return launch_.function->text(); }

 private:
  PlannedLaunch launch_;
};

/// All launches of an op. Nothing is launched for a result without elements.
struct Recipe {
  std::vector<Step> steps;
  size_t scratch = 0;  // bytes of memory beside the operands
  /// Room in the scratch memory.
  Pointer room(int64_t bytes);
};

/// Whether there is a kernel for an op of kind kernel whose first input has elements of `dtype`; if not, why.
bool has_kernel(const Op& op, DType dtype, std::string* why);

/// Fills an operand with zeros.
Recipe zeros(const Region& region, size_t result);

// Recipes of ops for given layouts. `aligned`: every operand's address is a multiple of 16.
Recipe argmax_recipe(const Region& region, bool aligned);
Recipe argmin_recipe(const Region& region, bool aligned);
Recipe index_select_recipe(const Region& region, bool aligned);
Recipe gather_recipe(const Region& region, bool aligned);
Recipe concat_recipe(const Region& region, bool aligned);
Recipe index_add_recipe(const Region& region, bool aligned);
Recipe scatter_add_recipe(const Region& region, bool aligned);
Recipe max_pool2d_recipe(const Region& region, bool aligned);
Recipe max_pool2d_backward_recipe(const Region& region, bool aligned);
Recipe max_pool2d_pick_recipe(const Region& region, bool aligned);
Recipe avg_pool2d_recipe(const Region& region, bool aligned);
Recipe avg_pool2d_backward_recipe(const Region& region, bool aligned);

// ---- what their texts share ----

/// `Index`, an unsigned type wide enough to count `most` elements, and loops over them: `first_index()`,
/// `index_step()`.
std::string index_text(bool wide);
inline bool is_wide(int64_t most) { return most >= int64_t{1} << 31; }

/// "typedef f32 T;"
std::string type_text(DType dtype, std::string_view name);

/// A shape around an axis.
struct Fold {
  int64_t outer = 1, extent = 1, inner = 1;
};
Fold fold(const Shape& shape, int64_t axis);

/// The index tensor's type as "I", or an Error.
std::string index_type_text(const Region& region);
/// The code of the error that an index lies outside of [0, extent).
int range_error(const Region& region, int64_t extent);

/// `plus(T, T)`: integers wrap.
extern const std::string_view plus_text;

}  // namespace rp::cuda
