#include "reprise/backends/cuda/scan_body.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <numeric>

#include "reprise/core/ops/entries.h"
#include "reprise/fusion/place.h"

namespace rp::cuda {
namespace {

constexpr int64_t most_groups = 16;     // columns of one value that a thread has for one unit
constexpr int64_t most_reduced = 4096;  // one block of the tree of sums
using As = ScanValue::Kind;

struct Refusal {
  std::string why;
};

template <class... T>
[[noreturn]] void refuse(fmt::format_string<T...> text, T&&... values) {
  throw Refusal{fmt::format(text, std::forward<T>(values)...)};
}

// A layout as rows and columns, with its steps in elements.
struct Matrix {
  int64_t rows = 1, columns = 1, row = 0, column = 0;
};

class Analysis {
 public:
  Analysis(const Region& region, bool tensor) : region_(region), g_(*region.attrs.as<ControlAttrs>().body) {
    body_.attrs = region.attrs.as<ControlAttrs>();
    body_.tensor = tensor;
    body_.positions = random_positions(g_);
  }

  ScanBody run() {
    find_needed();
    find_batch();
    for (int32_t c = 0; c < body_.attrs.carries; ++c) add_carry(c);
    for (int32_t i = 0; i < g_.size(); ++i)
      if (needed_[static_cast<size_t>(i)] && g_[i].op->kind != Kind::view && g_[i].op->kind != Kind::input) add_node(i);
    for (ScanValue& v : body_.values)
      if (v.kind == As::carry) v.reads = {read(next_of(v.node))};
    add_results();
    find_spaces();
    find_levels();
    find_held();
    const auto multiplies = [](const ScanValue& v) { return v.kind == As::product; };
    if (body_.tensor && !std::ranges::any_of(body_.values, multiplies)) refuse("there are no products");
    return std::move(body_);
  }

 private:
  // ---- what is needed ----

  int32_t input_number(int32_t node) const {
    return static_cast<int32_t>(std::find(g_.inputs.begin(), g_.inputs.end(), node) - g_.inputs.begin());
  }
  int32_t next_of(int32_t input) const { return g_.outputs[static_cast<size_t>(input_number(input))]; }
  bool is_carry(int32_t node) const {
    return g_[node].op->kind == Kind::input && input_number(node) < body_.attrs.carries;
  }

  // What the wanted results depend on, a carry on its next value too.
  void find_needed() {
    needed_.assign(g_.nodes.size(), false);
    std::vector<int32_t> open;
    const auto want = [&](int32_t i) {
      if (needed_[static_cast<size_t>(i)]) return;
      needed_[static_cast<size_t>(i)] = true;
      open.push_back(i);
    };
    for (int32_t k : region_.results)
      want(k < body_.attrs.carries ? g_.inputs[static_cast<size_t>(k)] : g_.outputs[static_cast<size_t>(k)]);
    while (!open.empty()) {
      const int32_t i = open.back();
      open.pop_back();
      if (is_carry(i)) want(next_of(i));
      for (int32_t in : g_[i].inputs) want(in);
    }
  }

  // The rows of products; without any, the most rows of a matrix; 1 where all values are vectors.
  void find_batch() {
    int64_t most = 0, product = 0;
    for (int32_t i = 0; i < g_.size(); ++i) {
      const Shape& shape = g_[i].layout->shape();
      const bool computed = g_[i].op->kind != Kind::view && (g_[i].op->kind != Kind::input || is_carry(i));
      if (!needed_[static_cast<size_t>(i)] || !computed || shape.rank() < 2) continue;
      most = std::max(most, shape[0]);
      if (g_[i].op->kind == Kind::contract) product = shape[0];
    }
    flat_ = !most;
    body_.batch = flat_ ? 1 : product ? product : most;
  }

  // ---- reading ----

  Matrix matrix_of(const Layout& l) const {
    if (!l.numel) refuse("a value of {} has no elements", to_string(l.spec));
    Dims shape = l.shape(), strides = l.strides;
    for (int a = shape.rank() - 1; a >= 0 && shape.rank() > 2; --a)
      if (shape[a] == 1) {
        shape.erase(a);
        strides.erase(a);
      }
    Matrix m;
    if (shape.rank() > 2) refuse("a value of {} is not a matrix of the batch", to_string(l.spec));
    if (shape.rank() == 2) m = {shape[0], shape[1], strides[0], strides[1]};
    if (shape.rank() == 1) m = flat_ ? Matrix{1, shape[0], 0, strides[0]} : Matrix{shape[0], 1, strides[0], 0};
    if (m.rows != 1 && m.rows != body_.batch)
      refuse("a value of {} does not have the {} rows of the batch", to_string(l.spec), body_.batch);
    if (m.rows == 1) m.row = 0;
    if (m.columns == 1) m.column = 0;
    return m;
  }

  Place place_at(int32_t node) const {
    Place place = place_of(g_, node);
    if (!place.terms.empty()) refuse("a view starts where a number says that is known when it runs{}", at(node));
    if (place.version >= 0) refuse("the step writes in place{}", at(node));
    return place;
  }

  std::string at(int32_t node) const { return source_line(g_[node].loc); }

  ScanOutside outside(const Place& place, const Matrix& m) const {
    const int32_t k = input_number(place.base);
    const bool stepped = k < body_.attrs.carries + body_.attrs.inputs;
    const int64_t step = stepped ? region_.operands[static_cast<size_t>(k)].layout->strides[0] : 0;
    return {k, stepped, place.offset, m.row, m.column, step, place.layout->dtype()};
  }

  ScanRead read(int32_t node) const {
    const Place place = place_at(node);
    const Matrix m = matrix_of(*place.layout);
    ScanRead r;
    const auto known = value_of_.find(place.base);
    if (known == value_of_.end()) {
      r.outside = outside(place, m);
      return r;
    }
    r.value = known->second;
    const ScanValue& v = body_[r.value];
    const bool rows = m.rows == 1 ? v.rows == 1 : m.row == (v.rows == 1 ? 0 : v.columns);
    r.spread = m.columns > 1 && m.column == 0;
    r.column = place.offset;
    const bool columns =
        r.spread ? v.columns == 1 && !r.column : (m.columns == 1 || m.column == 1) && r.column + m.columns <= v.columns;
    if (!rows || !columns) refuse("{} is read in another order{}", g_[v.node].op->name, at(node));
    return r;
  }

  // ---- values ----

  int add(ScanValue v) {
    if (v.node >= 0 && v.kind != As::copy) value_of_[v.node] = static_cast<int>(body_.values.size());
    body_.values.push_back(std::move(v));
    return static_cast<int>(body_.values.size()) - 1;
  }

  ScanValue value(As kind, int32_t node) const {
    const Layout& l = *g_[node].layout;
    const Matrix m = matrix_of(l);
    ScanValue v;
    v.kind = kind;
    v.node = node;
    v.dtype = l.dtype();
    v.rows = m.rows;
    v.columns = m.columns;
    return v;
  }

  void add_carry(int32_t c) {
    const int32_t node = g_.inputs[static_cast<size_t>(c)];
    if (!needed_[static_cast<size_t>(node)]) return;
    if (!g_[node].layout->contiguous) refuse("a carry is strided{}", at(node));
    ScanValue v = value(As::carry, node);
    v.first = {c, false, 0, v.rows == 1 ? 0 : v.columns, 1, 0, v.dtype};
    add(std::move(v));
  }

  void add_node(int32_t i) {
    const Node& n = g_[i];
    if (!n.layout->contiguous) refuse("{} gives a strided value{}", n.op->name, at(i));
    switch (n.op->kind) {
      case Kind::pointwise:
        return add_pointwise(i);
      case Kind::reduce:
        return add_reduction(i);
      case Kind::contract:
        return add_product(i);
      default:
        if (n.op == &concat_op) return add_concat(i);
        refuse("{} has no place in a kernel over all steps{}", n.op->name, at(i));
    }
  }

  void add_pointwise(int32_t i) {
    ScanValue v = value(As::pointwise, i);
    for (int32_t in : g_[i].inputs) v.reads.push_back(read(in));
    add(std::move(v));
  }

  void add_concat(int32_t i) {
    ScanValue v = value(As::concat, i);
    const int axis = g_[i].attrs.as<AxisAttrs>().axis;
    if (axis != g_[i].layout->rank() - 1 || (axis == 0 && !flat_))
      refuse("concat puts rows behind each other{}", at(i));
    int64_t column = 0;
    for (int32_t in : g_[i].inputs) {
      v.reads.push_back(read(in));
      v.starts.push_back(column);
      column += matrix_of(*g_[in].layout).columns;
    }
    add(std::move(v));
  }

  void add_reduction(int32_t i) {
    const Node& n = g_[i];
    const Layout& from = *g_[n.inputs[0]].layout;
    const int32_t last = 1 << (from.rank() - 1);
    if (n.attrs.as<ReduceAttrs>().axes != last || (from.rank() != 2 && !flat_))
      refuse("{} is not along the units{}", n.op->name, at(i));
    if (from.shape().back() > most_reduced) refuse("{} of more than {} units{}", n.op->name, most_reduced, at(i));
    if (n.layout->dtype() == DType::boolean || from.dtype() != n.layout->dtype())
      refuse("{} of {}{}", n.op->name, name_of(from.dtype()), at(i));
    ScanValue v = value(As::reduction, i);
    v.reads = {exchanged(n.inputs[0])};
    add(std::move(v));
  }

  void add_product(int32_t i) {
    const Node& n = g_[i];
    if (n.op != &matmul_op || n.layout->rank() != 2 || n.layout->dtype() < DType::f32)
      refuse("{} of {}{}", n.op->name, to_string(n.layout->spec), at(i));
    const Place right = place_at(n.inputs[1]);
    if (g_[right.base].op->kind != Kind::input || input_number(right.base) < body_.attrs.carries + body_.attrs.inputs)
      refuse("both factors of a product change from step to step{}", at(i));
    ScanValue v = value(As::product, i);
    v.inner = right.layout->shape()[0];
    if (!v.inner) refuse("a product of no columns{}", at(i));
    v.factor = outside(right, {v.inner, v.columns, right.layout->strides[0], right.layout->strides[1]});
    if (body_.tensor) v.numbers = numbers(v, i);
    v.reads = {exchanged(body_.tensor ? g_[n.inputs[0]].inputs[0] : n.inputs[0])};
    if (body_.tensor) check_columns(v, i);
    add(std::move(v));
  }

  // The 16-bit floats that both factors of a product have been cast from.
  DType numbers(const ScanValue& product, int32_t i) const {
    const Node& left = g_[g_[i].inputs[0]];
    const std::optional<DType> right = region_.operands[static_cast<size_t>(product.factor.operand)].cast_from;
    if (!right) refuse("a factor has not been 16-bit floats{}", at(i));
    if (left.op != &cast_op || g_[left.inputs[0]].layout->dtype() != *right)
      refuse("the other factor has not been {}{}", name_of(*right), at(i));
    return *right;
  }

  // Tiles take 32 columns at a time, what stands behind the last one too.
  void check_columns(const ScanValue& product, int32_t i) const {
    const ScanRead& r = product.reads[0];
    if (r.column % 8 || (product.inner % 32 && r.column + product.inner != body_[r.value].columns))
      refuse("a product of columns {} to {}{}", r.column, r.column + product.inner, at(i));
  }

  // A read of whole rows, of a value that has the rows and columns of its own.
  ScanRead exchanged(int32_t node) {
    const ScanRead r = read(node);
    const Matrix m = matrix_of(*g_[node].layout);
    if (r.value >= 0 && !r.spread && body_[r.value].rows == m.rows) return r;
    return {copied(node, r), 0, false, {}};
  }

  int copied(int32_t node, const ScanRead& r) {
    const auto known = copies_.find(node);
    if (known != copies_.end()) return known->second;
    ScanValue v = value(As::copy, node);
    v.reads = {r};
    return copies_[node] = add(std::move(v));
  }

  void add_results() {
    const auto inputs = static_cast<int>(region_.operands.size() - region_.results.size());
    for (size_t k = 0; k < region_.results.size(); ++k) {
      const int32_t number = region_.results[k];
      ScanResult result{inputs + static_cast<int>(k), 0, number >= body_.attrs.carries};
      if (!result.stacked) {
        result.value = value_of_.at(g_.inputs[static_cast<size_t>(number)]);
      } else {
        const int32_t node = g_.outputs[static_cast<size_t>(number)];
        const ScanRead r = read(node);
        const Matrix m = matrix_of(*g_[node].layout);
        const bool whole =
            r.value >= 0 && !r.spread && body_[r.value].rows == m.rows && body_[r.value].columns == m.columns;
        result.value = whole ? r.value : copied(node, r);
      }
      body_.results.push_back(result);
    }
  }

  // ---- spaces ----

  int root(int v) {
    while (parent_[static_cast<size_t>(v)] != v) v = parent_[static_cast<size_t>(v)];
    return v;
  }

  // Column `start` of a value stands where a read's first column does.
  void join(int v, int64_t start, const ScanRead& r) {
    if (r.value < 0 || r.spread) return;
    const int a = root(v), b = root(r.value);
    parent_[static_cast<size_t>(b)] = a;
    int64_t& units = units_[static_cast<size_t>(a)];
    for (int64_t n : {units_[static_cast<size_t>(b)], start, r.column}) units = std::gcd(units, n);
  }

  void find_spaces() {
    const auto count = static_cast<int>(body_.values.size());
    for (int v = 0; v < count; ++v) {
      parent_.push_back(v);
      units_.push_back(body_[v].columns);
    }
    for (int v = 0; v < count; ++v) {
      const ScanValue& value = body_[v];
      if (value.kind == As::product || value.kind == As::reduction) continue;
      for (size_t k = 0; k < value.reads.size(); ++k)
        join(v, value.kind == As::concat ? value.starts[k] : 0, value.reads[k]);
    }
    std::map<int, int> number;
    for (int v = 0; v < count; ++v) {
      const int r = root(v);
      const auto [it, fresh] = number.try_emplace(r, static_cast<int>(body_.spaces.size()));
      if (fresh) body_.spaces.push_back({units_[static_cast<size_t>(r)]});
      body_.values[static_cast<size_t>(v)].space = it->second;
      if (body_.groups(body_[v]) > most_groups)
        refuse("columns of {} move from unit to unit{}", g_[body_[v].node].op->name, at(body_[v].node));
    }
  }

  // ---- levels ----

  void find_levels() {
    for (ScanValue& v : body_.values) {
      if (v.kind == As::carry) continue;
      const bool meets = v.kind == As::product || v.kind == As::reduction;
      for (const ScanRead& r : v.reads) {
        if (r.value < 0) continue;
        const ScanValue& from = body_[r.value];
        v.level = std::max(v.level, from.level + (meets && from.kind != As::carry));
      }
      body_.levels = std::max(body_.levels, v.level);
      if (meets) exchange(v.reads[0].value, v.level);
    }
  }

  void exchange(int value, int level) {
    int& known = body_.values[static_cast<size_t>(value)].exchange;
    if (known < 0) {
      known = static_cast<int>(body_.exchanges.size());
      body_.exchanges.push_back({value, level});
    }
    int& last = body_.exchanges[static_cast<size_t>(known)].last_read;
    last = std::max(last, level);
  }

  // Values that are used behind the loop in which they are computed.
  void find_held() {
    for (const ScanValue& v : body_.values) {
      if (v.kind == As::product || v.kind == As::reduction) continue;
      for (size_t k = 0; k < v.reads.size(); ++k) {
        const int64_t first = v.kind == As::concat ? v.starts[k] : 0,
                      end = v.kind == As::concat && k + 1 < v.starts.size() ? v.starts[k + 1] : v.columns;
        for (int64_t c = first; c < end; c += body_.units(v)) hold(body_.source(v.reads[k], c - first), v);
      }
    }
    for (ScanValue& v : body_.values) v.held |= v.kind == As::carry || v.kind == As::product || v.kind == As::reduction;
  }

  void hold(const ScanRead& source, const ScanValue& user) {
    if (source.value < 0) return;
    ScanValue& v = body_.values[static_cast<size_t>(source.value)];
    v.held |= user.kind == As::carry || v.level < user.level || v.space != user.space;
  }

  const Region& region_;
  const Graph& g_;
  ScanBody body_;
  bool flat_ = false;
  std::vector<bool> needed_;
  std::map<int32_t, int> value_of_, copies_;  // by node
  std::vector<int> parent_;
  std::vector<int64_t> units_;
};

}  // namespace

ScanRead ScanBody::source(ScanRead read, int64_t column) const {
  while (read.value >= 0) {
    const ScanValue& v = (*this)[read.value];
    const int64_t at = read.column + (read.spread ? 0 : column);
    if (v.kind != ScanValue::Kind::concat) {
      read.column = at;
      return read;
    }
    const auto part =
        static_cast<size_t>(std::upper_bound(v.starts.begin(), v.starts.end(), at) - v.starts.begin()) - 1;
    column = at - v.starts[part];
    read = v.reads[part];
  }
  read.outside.offset += column * read.outside.column;
  return read;
}

std::optional<ScanBody> scan_body(const Region& region, bool tensor, std::string* why) {
  try {
    return Analysis(region, tensor).run();
  } catch (const Refusal& refusal) {
    *why = refusal.why;
    return {};
  }
}

}  // namespace rp::cuda
