#include <cmath>

#include "reprise/backends/cpu/tile_program.h"
#include "reprise/core/expr.h"
#include "reprise/core/fail.h"

namespace rp {
namespace {

using namespace tile;

const Kernels& kernels_for([[maybe_unused]] std::string_view isa) {
#if defined(__x86_64__)
  if (isa == "avx2" && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return avx2::kernels();
#endif
  return baseline::kernels();
}

uint64_t function_address(Function f) {
  using F = double (*)(double);
  constexpr F functions[] = {std::exp, std::expm1, std::log, std::log1p, std::tanh, std::erf,
                             std::sin, std::cos,   std::tan, std::atan,  std::asin, std::acos};
  if (f == Function::pow) return reinterpret_cast<uint64_t>(static_cast<double (*)(double, double)>(std::pow));
  return reinterpret_cast<uint64_t>(functions[static_cast<size_t>(f)]);
}

class Decoder {
 public:
  Decoder(const Program& program, TileProgram& out) : program_(program), out_(out), kernels_(*out.kernels) {}

  void run() {
    mark_needed();
    tile_of_.assign(program_.insts.size(), 0);
    for (size_t id = 0; id < program_.insts.size(); ++id)
      if (needed_[id]) lower(static_cast<uint16_t>(id));
    place();
    out_.column_form = program_.column_form;
    for (const ProgramOperand& o : program_.operands) out_.written.push_back(o.written);
  }

 private:
  /// One tile of values; instructions that only rename bits share one.
  struct Tile {
    Type type;  // as it was made; decides the width of a lane
    enum : uint8_t { temporary, scalar, constant } life;
    uint64_t bits = 0;
    int last_use = -1;
    uint16_t buffer = 0;
  };

  void mark_needed() {
    const auto& insts = program_.insts;
    needed_.assign(insts.size(), false);
    for (size_t id = insts.size(); id-- > 0;) {
      const Inst& i = insts[id];
      if (!needed_[id] && !is_sink(i.op)) continue;
      needed_[id] = true;
      const uint16_t args[] = {i.a, i.b, i.c};
      for (int k = 0; k < operands_of(i.op); ++k) needed_[args[k]] = true;
    }
  }

  uint16_t new_tile(Type type, decltype(Tile::life) life = Tile::temporary, uint64_t bits = 0) {
    tiles_.push_back({type, life, bits});
    return static_cast<uint16_t>(tiles_.size() - 1);
  }

  uint16_t convert(uint16_t tile, Type from, Type to) {
    if (from == to) return tile;
    Step s{.kind = StepKind::compute, .out = new_tile(to), .a = tile, .b = tile, .c = tile};
    s.compute = kernels_.convert[static_cast<int>(from)][static_cast<int>(to)];
    out_.steps.push_back(s);
    return s.out;
  }

  void lower(uint16_t id) {
    const Inst& i = program_.insts[id];
    uint16_t& result = tile_of_[id];
    switch (i.op) {
      case Ir::load:
        result = convert(load(i), type_of(program_.operands[i.imm].dtype), i.type);
        break;
      case Ir::scalar:
        result = new_tile(i.type, Tile::scalar);
        out_.scalars.push_back({result, static_cast<uint16_t>(i.imm), i.type});
        break;
      case Ir::constant:
        result = new_tile(i.type, Tile::constant, i.imm);
        break;
      case Ir::index:
        result = new_tile(Type::i32);
        out_.steps.push_back({.kind = StepKind::index, .out = result});
        break;
      case Ir::bitcast:
        result = tile_of_[i.a];
        break;
      case Ir::convert:
        result = convert(tile_of_[i.a], i.from, i.type);
        break;
      case Ir::store:
        store(i);
        break;
      case Ir::accumulate:
        accumulate(i);
        break;
      default:
        result = compute(i);
        break;
    }
  }

  uint16_t load(const Inst& i) {
    const ProgramOperand& o = program_.operands.at(i.imm);
    Step s{.kind = o.access == Access::broadcast ? StepKind::load_broadcast : StepKind::load};
    s.operand = static_cast<uint8_t>(i.imm);
    s.element = static_cast<uint8_t>(rp::size_of(o.dtype));
    s.out = new_tile(type_of(o.dtype));
    if (o.dtype == DType::boolean) s.move = kernels_.mask_from_bool;
    if (o.dtype == DType::f16) s.move = kernels_.f32_from_f16;
    if (o.dtype == DType::bf16) s.move = kernels_.f32_from_bf16;
    out_.steps.push_back(s);
    return s.out;
  }

  void store(const Inst& i) {
    const ProgramOperand& o = program_.operands.at(i.imm);
    Step s{.kind = StepKind::store, .access = o.access};
    s.operand = static_cast<uint8_t>(i.imm);
    s.element = static_cast<uint8_t>(rp::size_of(o.dtype));
    s.a = s.b = s.c = convert(tile_of_[i.a], i.type, type_of(o.dtype));
    if (o.dtype == DType::boolean) s.move = kernels_.bool_from_mask;
    if (o.dtype == DType::f16) s.move = kernels_.f16_from_f32;
    if (o.dtype == DType::bf16) s.move = kernels_.bf16_from_f32;
    out_.steps.push_back(s);
  }

  void accumulate(const Inst& i) {
    const Accumulator& a = program_.accumulators.at(i.imm);
    Step s{.kind = StepKind::accumulate};
    s.operand = static_cast<uint8_t>(i.imm);
    s.element = static_cast<uint8_t>(size_of(a.type));
    s.a = s.b = s.c = convert(tile_of_[i.a], i.type, a.type);
    const auto& table = program_.column_form ? kernels_.columns : kernels_.lanes;
    s.gather = table[static_cast<int>(a.combine)][static_cast<int>(a.type)];
    if (!s.gather) fail("kernel: expected an accumulator of numbers, got one of bool");
    out_.steps.push_back(s);
  }

  uint16_t compute(const Inst& i) {
    const int n = operands_of(i.op);
    Step s{.kind = StepKind::compute, .a = tile_of_[i.a], .imm = i.imm};
    s.b = n > 1 ? tile_of_[i.b] : s.a;
    s.c = n > 2 ? tile_of_[i.c] : s.a;
    Type key = i.type;
    if (i.op == Ir::call) {
      const auto f = static_cast<Function>(i.imm);
      s.kind = StepKind::call;
      s.imm = function_address(f);
      key = f == Function::pow ? Type::f64 : Type::f32;
    }
    s.compute = kernels_.compute[static_cast<int>(i.op)][static_cast<int>(key)];
    if (!s.compute)
      fail("kernel: instruction {} is not defined for type {}", static_cast<int>(i.op), static_cast<int>(i.type));
    const bool comparison = i.op >= Ir::eq && i.op <= Ir::ge;
    s.out = new_tile(comparison ? Type::mask : i.type);
    out_.steps.push_back(s);
    return s.out;
  }

  /// Gives every tile a buffer; a temporary's is free again after its last use, but never becomes the output of that
  /// step.
  void place() {
    auto& steps = out_.steps;
    for (size_t k = 0; k < steps.size(); ++k)
      for (uint16_t t : {steps[k].a, steps[k].b, steps[k].c})
        if (reads(steps[k])) tiles_[t].last_use = static_cast<int>(k);
    place_constants();
    for (ScalarFill& s : out_.scalars) s.buffer = tiles_[s.buffer].buffer = new_buffer(tiles_[s.buffer].type);
    std::vector<uint16_t> free[2];
    for (size_t k = 0; k < steps.size(); ++k) {
      Step& s = steps[k];
      if (s.kind != StepKind::store && s.kind != StepKind::accumulate) {
        Tile& t = tiles_[s.out];
        auto& list = free[size_of(t.type) == 8];
        if (list.empty()) list.push_back(new_buffer(t.type));
        t.buffer = list.back();
        list.pop_back();
      }
      if (reads(s)) free_after(s, static_cast<int>(k), free);
      for (uint16_t* t : {&s.a, &s.b, &s.c}) *t = reads(s) ? tiles_[*t].buffer : 0;
      s.out = tiles_[s.out].buffer;
    }
  }

  static bool reads(const Step& s) {
    return s.kind != StepKind::load && s.kind != StepKind::load_broadcast && s.kind != StepKind::index;
  }

  void free_after(const Step& s, int k, std::vector<uint16_t> (&free)[2]) {
    for (uint16_t id : {s.a, s.b, s.c}) {
      Tile& t = tiles_[id];
      if (t.life != Tile::temporary || t.last_use != k) continue;
      t.last_use = -1;
      free[size_of(t.type) == 8].push_back(t.buffer);
    }
  }

  uint16_t new_buffer(Type type) {
    out_.buffers.push_back({false, out_.scratch_bytes});
    out_.scratch_bytes += buffer_bytes(size_of(type));
    return static_cast<uint16_t>(out_.buffers.size() - 1);
  }

  void place_constants() {
    size_t bytes = 0;
    for (Tile& t : tiles_) {
      if (t.life != Tile::constant) continue;
      t.buffer = static_cast<uint16_t>(out_.buffers.size());
      out_.buffers.push_back({true, bytes});
      bytes += buffer_bytes(size_of(t.type));
    }
    out_.constant_data = out_.constants.at_least(bytes);
    for (const Tile& t : tiles_) {
      if (t.life != Tile::constant) continue;
      const auto fill = size_of(t.type) == 8 ? kernels_.fill8 : kernels_.fill4;
      fill(out_.constant_data + out_.buffers[t.buffer].offset, t.bits, width);
    }
  }

  const Program& program_;
  TileProgram& out_;
  const Kernels& kernels_;
  std::vector<bool> needed_;
  std::vector<uint16_t> tile_of_;  // by instruction
  std::vector<Tile> tiles_;
};

}  // namespace

TileProgramPtr decode(const Program& program, std::string_view isa) {
  auto* out = new TileProgram;
  TileProgramPtr owned(out);
  out->kernels = &kernels_for(isa);
  Decoder(program, *out).run();
  return owned;
}

void TileProgramDelete::operator()(const TileProgram* program) const { delete program; }

std::string_view tile_isa(std::string_view wanted) { return kernels_for(wanted).name; }

}  // namespace rp
