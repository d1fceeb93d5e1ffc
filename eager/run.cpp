// Running one op now. A plain contiguous map and a single library kernel are called directly; everything else goes
// through the cached plan of a graph of one op, so that both modes run the same kernels.
#include "reprise/eager/run.h"

#include <algorithm>
#include <cstring>

#include "reprise/core/engine.h"
#include "reprise/core/fail.h"
#include "reprise/core/map.h"
#include "reprise/core/ops/attrs.h"
#include "reprise/core/ops/entries.h"
#include "reprise/core/planted.h"
#include "reprise/core/stats.h"
#include "reprise/core/trace_events.h"
#include "reprise/eager/nan.h"

namespace rp {
namespace {

constexpr int64_t max_direct_elements = 8192;  // larger maps are split among threads by their plan

// The dtype that tells a pointwise op's kernels apart, besides its mask of scalars.
DType kernel_dtype(const Call& call, const Layout* out) {
  const DType dtype = call.inputs.empty() ? out->dtype() : call.inputs.back()->dtype();
  return planted(Defect::dtype_key) && dtype == DType::i32 ? DType::f32 : dtype;
}

bool all_contiguous(const Call& call) {
  for (const Tensor* t : call.inputs)
    if (!t->impl()->layout->contiguous) return false;
  return true;
}

bool on_cpu(const Layout* out) { return out->spec.device.kind == DeviceKind::cpu; }

bool direct(const Call& call, const Layout* out) {
  return on_cpu(out) && call.op->kind == Kind::pointwise && call.op != &cast_op && out->numel <= max_direct_elements &&
         out->contiguous && all_contiguous(call);
}

[[gnu::noinline]] const Compiled* compile_map(const Call& call, const Layout* out) {
  const std::optional<Span> shown = span("compile", "{}", call.op->name);
  std::vector<const Layout*> inputs;
  for (const Tensor* t : call.inputs) inputs.push_back(&t->layout());
  const ShapeCall map{*call.op, inputs, call.attrs, call.scalars, call.scalar_mask};
  return engine.backend(out->spec.device).compile(map_program(map, out->dtype()));
}

void run_map(const Call& call, const Tensor& out) {
  const Layout* layout = out.impl()->layout;
  std::atomic<const void*>& slot =
      call.op->slots.maps[static_cast<int>(kernel_dtype(call, layout))][std::min<int>(call.scalar_mask, 15)];
  auto* compiled = static_cast<const Compiled*>(slot.load(std::memory_order_acquire));
  if (!compiled) {
    compiled = compile_map(call, layout);
    slot.store(compiled, std::memory_order_release);
  }
  KernelArgs args;
  size_t k = 0;
  for (const Tensor* t : call.inputs) {
    args.pointers[k] = t->bytes();
    args.row_strides[k++] = 0;
  }
  args.pointers[k] = out.bytes();
  args.row_strides[k] = 0;
  args.rows = 1;
  args.columns = layout->numel;
  args.scalars = call.scalars.data();
  args.context = compiled->context;
  compiled->run(&args);
  ++launch_stats().kernels;
}

Kernel kernel_for(const Op& op, const Layout& input) {
  auto& slot = op.slots.kernels[static_cast<int>(input.spec.device.kind)][static_cast<int>(input.dtype())];
  Kernel kernel = slot.load(std::memory_order_acquire);
  if (kernel) return kernel;
  std::string why;
  kernel = engine.backend(input.spec.device).find(op, input.dtype(), &why);
  if (!kernel) fail("{}: {}", op.name, why);
  slot.store(kernel, std::memory_order_release);
  return kernel;
}

void run_kernel(const Call& call, const Tensor& out) {
  std::vector<View> views;
  for (const Tensor* t : call.inputs) views.push_back({t->bytes(), t->impl()->layout});
  const Kernel kernel = kernel_for(*call.op, call.inputs[0]->layout());
  kernel({*call.op, views, {out.bytes(), out.impl()->layout}, call.attrs, call.scalars});
  ++launch_stats().kernels;
}

[[gnu::cold]] void never_computed(const Tensor& t) {
  fail("{} was never computed: an op before it failed, or a capture still holds it", to_string(t.spec()));
}

// Elements that an op before has failed to compute, or that another thread's capture still holds back.
void check_computed(const Tensor& t) {
  if (t.pending()) never_computed(t);
}

bool overlaps(const Tensor& a, const Tensor& b) {
  return a.shares_storage(b) && !(a.impl()->layout == b.impl()->layout && a.impl()->offset == b.impl()->offset);
}

void copy_result(const Call& call, const Tensor& out) {
  const Layout* layout = out.impl()->layout;
  const Tensor value = run(call, layout);
  if (layout->numel) engine.backend(layout->spec.device).copy(out.bytes(), value.bytes(), layout->bytes());
}

// Between devices, by way of the host if neither is it.
void transfer(const Tensor& from, const Tensor& out) {
  Tensor packed = from.impl()->layout->contiguous ? from : allocate(from.impl()->layout->packed);
  if (!packed.is(from)) {
    const Tensor* inputs[] = {&from};
    engine.run_plan({.op = &copy_op, .inputs = inputs}, packed);
  }
  const size_t bytes = out.layout().bytes();
  if (on_cpu(out.impl()->layout))
    engine.backend(from.device()).read(out.bytes(), packed.bytes(), bytes);
  else
    engine.backend(out.device()).write(out.bytes(), HostBytes(packed).data(), bytes);
}

void compute_out(const Call& call, const Tensor& out) {
  const Layout* layout = out.impl()->layout;
  if (call.op->kind == Kind::control) return engine.run_control(call, out);
  if (call.op->kind == Kind::result) return copy_result(call, out);
  if (!layout->numel) return;
  for (const Tensor* t : call.inputs) check_computed(*t);
  if (call.op->kind == Kind::transfer) return transfer(*call.inputs[0], out);
  if (direct(call, layout)) return run_map(call, out);
  if (on_cpu(layout) && call.op->kind == Kind::kernel && !call.op->blocks && all_contiguous(call))
    return run_kernel(call, out);
  engine.run_plan(call, out);
}

// Its name, its result, and where it stands.
std::optional<Span> op_span(const Call& call, const Tensor& out, bool in_place = false) {
  if (!traced()) return std::nullopt;
  std::string members = where_members(At::where());
  const auto add = [&](const std::string& member) { members += (members.empty() ? "" : ",") + member; };
  if (call.op->kind != Kind::control) add("\"result\":" + json_text(to_string(out.spec())));
  if (in_place) add("\"in_place\":true");
  return std::optional<Span>(std::in_place, "op", std::string(call.op->name), std::move(members));
}

}  // namespace

void run_out(const Call& call, const Tensor& out) {
  if (!thread_state.watch) [[likely]]
    return compute_out(call, out);
  const std::optional<Span> shown = op_span(call, out);
  compute_out(call, out);
  if (watches_nan()) check_finite(call, out);
}

Tensor run(const Call& call, const Layout* out) {
  if (call.op->kind == Kind::write) {
    const Tensor& target = *call.inputs[0];
    const Tensor* value[] = {call.inputs[1]};
    run_into(target, {.op = &copy_op, .inputs = value});
    return target;
  }
  if (call.op->kind == Kind::result) return engine.result_of(*call.inputs[0], call.attrs.as<ResultAttrs>().index);
  Tensor y = allocate(out->packed);
  run_out(call, y);
  return y;
}

namespace {

void compute_into(const Tensor& target, const Call& call) {
  check_computed(target);
  for (const Tensor* t : call.inputs) check_computed(*t);
  ++target.impl()->storage->version;
  ++target.impl()->storage->content;
  if (!target.numel()) return;
  const bool apart =
      std::none_of(call.inputs.begin(), call.inputs.end(), [&](const Tensor* t) { return overlaps(*t, target); });
  if (apart && direct(call, target.impl()->layout)) return run_map(call, target);
  if (apart && call.op == &copy_op) return engine.run_plan(call, target);
  const Tensor value = allocate(target.impl()->layout->packed);
  compute_out(call, value);
  const Tensor* inputs[] = {&value};
  engine.run_plan({.op = &copy_op, .inputs = inputs}, target);
}

}  // namespace

void run_into(const Tensor& target, const Call& call) {
  if (!thread_state.watch) [[likely]]
    return compute_into(target, call);
  const std::optional<Span> shown = op_span(call, target, true);
  const bool searched = watches_nan() && finite_operands(call);  // they may lie in the target
  compute_into(target, call);
  if (searched) check_finite(call, target, true);
}

}  // namespace rp
