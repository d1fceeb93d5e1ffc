#include <algorithm>

#include "reprise/fusion/region.h"

namespace rp {

std::string_view name_of(RegionKind kind) {
  constexpr std::string_view names[] = {"map", "rows", "columns", "gemm", "kernel", "copy", "control"};
  return names[static_cast<int>(kind)];
}

int64_t Nest::outer_count() const {
  int64_t n = 1;
  for (int64_t d : outer) n *= d;
  return n;
}

namespace {

// An axis of the joint iteration space.
struct Axis {
  int64_t extent;
  std::vector<int64_t> steps;  // per operand
};

// The axes whose bit in `mask` equals `wanted`, neighbours joined where every operand steps evenly through both.
std::vector<Axis> joined(const Shape& shape, int32_t mask, bool wanted, const std::vector<Strides>& operands) {
  std::vector<Axis> axes;
  const Strides logical = packed_strides(shape);  // joined axes must also follow each other in the elements' numbering
  int previous = -1;
  for (int i = 0; i < shape.rank(); ++i) {
    if (((mask >> i) & 1) != wanted || shape[i] == 1) continue;
    Axis axis{shape[i], {}};
    for (const Strides& s : operands) axis.steps.push_back(s[i]);
    bool even = !axes.empty() && (!axis.extent || logical[previous] == logical[i] * axis.extent);
    previous = i;
    for (size_t k = 0; even && k < operands.size(); ++k)
      even = !axis.extent || axes.back().steps[k] == axis.steps[k] * axis.extent;
    if (even) {
      axis.extent *= axes.back().extent;
      axes.back() = axis;
    } else {
      axes.push_back(axis);
    }
  }
  return axes;
}

void set_rows(Nest& nest, const Axis& axis) {
  nest.rows = axis.extent;
  for (size_t k = 0; k < nest.operands.size(); ++k) nest.operands[k].row = axis.steps[k];
}

bool set_columns(Nest& nest, const Axis& axis) {
  nest.columns = axis.extent;
  for (size_t k = 0; k < nest.operands.size(); ++k) {
    nest.operands[k].column = axis.steps[k];
    if (axis.steps[k] != 0 && axis.steps[k] != 1) return false;
  }
  return true;
}

void add_outer(Nest& nest, const Axis& axis) {
  nest.outer.push_back(axis.extent);
  for (size_t k = 0; k < nest.operands.size(); ++k) nest.operands[k].outer.push_back(axis.steps[k]);
}

}  // namespace

std::optional<Nest> make_nest(RegionKind kind, const Shape& shape, int32_t reduced,
                              const std::vector<Strides>& operands) {
  Nest nest;
  nest.operands.resize(operands.size());
  std::vector<Axis> kept = joined(shape, reduced, false, operands), inner = joined(shape, reduced, true, operands);
  if (inner.size() > 1) return {};
  if (kind == RegionKind::map) {
    if (!kept.empty()) {
      if (!set_columns(nest, kept.back())) return {};
      kept.pop_back();
    }
  } else if (kind == RegionKind::rows) {
    if (!inner.empty() && !set_columns(nest, inner[0])) return {};
  } else {
    if (!inner.empty()) set_rows(nest, inner[0]);
    if (!kept.empty()) {
      if (!set_columns(nest, kept.back())) return {};
      kept.pop_back();
    }
  }
  if (kind != RegionKind::columns && !kept.empty()) {
    set_rows(nest, kept.back());
    kept.pop_back();
  }
  for (const Axis& axis : kept) add_outer(nest, axis);
  return nest;
}

Nest matrix_nest(const Shape& shape, const std::vector<Strides>& operands) {
  const int batch = shape.rank() - 2;
  Nest nest;
  for (int i = 0; i < batch; ++i) nest.outer.push_back(shape[i]);
  nest.rows = shape[batch];
  nest.columns = shape[batch + 1];
  for (const Strides& s : operands) {
    Nest::Steps steps{{}, s[batch], s[batch + 1]};
    for (int i = 0; i < batch; ++i) steps.outer.push_back(s[i]);
    nest.operands.push_back(steps);
  }
  return nest;
}

}  // namespace rp
