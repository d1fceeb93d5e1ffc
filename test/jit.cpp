#include "reprise/backends/cpu/jit.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <vector>

#include "reprise/backends/cpu/tile.h"
#include "reprise/test/guarded.h"
#include "reprise/test/ir_reference.h"

using namespace rp;
using reference::as_bits, reference::as_float, reference::as_mask;

namespace {

class Random {
 public:
  explicit Random(uint32_t seed) : engine_(seed) {}
  int below(int n) { return static_cast<int>(engine_() % static_cast<uint32_t>(n)); }
  bool chance(int percent) { return below(100) < percent; }
  template <class T>
  T among(std::initializer_list<T> choices) {
    return choices.begin()[below(static_cast<int>(choices.size()))];
  }
  uint32_t bits() { return engine_(); }

  /// Bits of an f32 or i32: ordinary numbers mostly, and every kind of special one.
  uint32_t number(Type type) {
    if (type == Type::mask) return as_mask(chance(50));
    if (chance(8)) return bits();
    if (type == Type::i32)
      return chance(15) ? among({0u, 1u, 0xffffffffu, 0x80000000u, 0x7fffffffu})
                        : static_cast<uint32_t>(below(2001) - 1000);
    if (chance(6)) return among({0x7fc00000u, 0x7f800000u, 0xff800000u, 0x00000001u, 0x80000000u, 0u, 0x4f000000u});
    return as_bits((static_cast<float>(below(200001)) - 100000) * 1e-4f);
  }

 private:
  std::mt19937 engine_;
};

class Generator {
 public:
  Generator(Random& random, int steps, int operands) : random_(random) {
    program_.column_form = random.chance(40);
    program_.scalars = 4;
    for (int k = 0; k < operands; ++k) add_operand(false);
    for (int k = 0; k < operands; ++k) load(k);
    for (int k = 0; k < 3; ++k) source();
    for (int k = 0; k < steps; ++k) step();
    sinks();
  }

  Program take() { return std::move(program_); }

 private:
  uint16_t emit(Inst inst, Type result) {
    program_.insts.push_back(inst);
    types_.push_back(result);
    return static_cast<uint16_t>(types_.size() - 1);
  }

  int add_operand(bool written) {
    DType dtype = random_.among({DType::f32, DType::f32, DType::f32, DType::i32, DType::i32, DType::boolean,
                                 DType::boolean, DType::f16, DType::bf16});
    const Access access = random_.chance(written ? 6 : 30) ? Access::broadcast : Access::contiguous;
    const bool streamed = written && access == Access::contiguous && size_of(dtype) == 4 && random_.chance(30);
    program_.operands.push_back({dtype, access, written, streamed});
    return static_cast<int>(program_.operands.size() - 1);
  }

  void load(int operand) {
    Type native = type_of(program_.operands[operand].dtype);
    Type type = random_.chance(85) ? native : random_.among({Type::f32, Type::i32, Type::mask});
    emit({.op = Ir::load, .type = type, .imm = static_cast<uint64_t>(operand)}, type);
  }

  void source() {
    Type type = random_.among({Type::f32, Type::i32, Type::mask});
    switch (random_.below(4)) {
      case 0:
        emit({.op = Ir::index, .type = Type::i32}, Type::i32);
        break;
      case 1:
        emit({.op = Ir::scalar, .type = type, .imm = slot_of(type)}, type);
        break;
      default:
        emit({.op = Ir::constant, .type = type, .imm = random_.number(type)}, type);
        break;
    }
  }

  static uint64_t slot_of(Type type) { return type == Type::f32 ? 0 : type == Type::i32 ? 1 : 2; }

  /// A value of a type, a late one mostly.
  uint16_t pick(Type type) {
    for (int tries = 0; tries < 40; ++tries) {
      int n = static_cast<int>(types_.size());
      int at = random_.chance(60) ? n - 1 - random_.below(std::min(n, 12)) : random_.below(n);
      if (types_[at] == type) return static_cast<uint16_t>(at);
    }
    return emit({.op = Ir::constant, .type = type, .imm = random_.number(type)}, type);
  }

  void step() {
    Type type = random_.among({Type::f32, Type::f32, Type::i32, Type::mask});
    if (random_.chance(10)) return source();
    if (random_.chance(15)) return convert(type);
    if (random_.chance(12)) return select(type);
    if (type == Type::mask) return random_.chance(50) ? logic(type) : compare(random_.among({Type::f32, Type::i32}));
    if (random_.chance(8)) return logic(type);
    if (random_.chance(8)) {
      rounded(pick(Type::f32), random_.among({DType::f16, DType::bf16}));
      return;
    }
    if (type == Type::f32)
      return arithmetic(type,
                        random_.among({Ir::add, Ir::sub, Ir::mul, Ir::div, Ir::fma, Ir::fma, Ir::fma, Ir::min, Ir::max,
                                       Ir::sqrt, Ir::floor, Ir::ceil, Ir::trunc, Ir::nearest, Ir::neg, Ir::abs}));
    arithmetic(type, random_.among({Ir::add, Ir::sub, Ir::mul, Ir::div, Ir::rem, Ir::min, Ir::max, Ir::neg, Ir::abs,
                                    Ir::mulhi, Ir::shl, Ir::shr, Ir::sar}));
  }

  void arithmetic(Type type, Ir op) {
    Inst inst{.op = op, .type = type, .imm = static_cast<uint64_t>(random_.below(32))};
    uint16_t* in[] = {&inst.a, &inst.b, &inst.c};
    for (int k = 0; k < operands_of(op); ++k) *in[k] = pick(type);
    emit(inst, type);
  }

  uint16_t rounded(uint16_t a, DType dtype) {
    return emit({.op = Ir::round16, .type = Type::f32, .a = a, .imm = static_cast<uint64_t>(dtype)}, Type::f32);
  }

  /// The bits of a NaN are nobody's business, so what looks at the bits of a value gets 1 for it.
  uint16_t without_nan(uint16_t a) {
    if (types_[a] != Type::f32) return a;
    uint16_t ordered = emit({.op = Ir::eq, .type = Type::f32, .a = a, .b = a}, Type::mask);
    uint16_t one = emit({.op = Ir::constant, .type = Type::f32, .imm = as_bits(1)}, Type::f32);
    return emit({.op = Ir::select, .type = Type::f32, .a = ordered, .b = a, .c = one}, Type::f32);
  }

  void logic(Type type) {
    Ir op = random_.among({Ir::band, Ir::bor, Ir::bxor, Ir::andnot});
    uint16_t a = without_nan(pick(type)), b = without_nan(pick(type));
    emit({.op = op, .type = type, .a = a, .b = b}, type);
  }

  void compare(Type type) {
    Ir op = random_.among({Ir::eq, Ir::ne, Ir::lt, Ir::le, Ir::gt, Ir::ge});
    uint16_t a = pick(type), b = pick(type);
    emit({.op = op, .type = type, .a = a, .b = b}, Type::mask);
  }

  void select(Type type) {
    uint16_t a = pick(Type::mask), b = pick(type), c = pick(type);
    emit({.op = Ir::select, .type = type, .a = a, .b = b, .c = c}, type);
  }

  void convert(Type type) {
    Type from = random_.among({Type::f32, Type::i32, Type::mask});
    bool cast = type != Type::mask && from != Type::mask && random_.chance(30);
    uint16_t a = cast ? without_nan(pick(from)) : pick(from);
    emit({.op = cast ? Ir::bitcast : Ir::convert, .type = type, .from = from, .a = a}, type);
  }

  void sinks() {
    int stores = 1 + random_.below(3), sums = random_.chance(50) ? 1 + random_.below(max_accumulators) : 0;
    for (int k = 0; k < stores; ++k) {
      int operand = add_operand(true);
      Type type = random_.chance(80) ? type_of(program_.operands[operand].dtype)
                                     : random_.among({Type::f32, Type::i32, Type::mask});
      const DType dtype = program_.operands[operand].dtype;
      if (is_short(dtype)) type = Type::f32;
      uint16_t a = pick(type);
      if (is_short(dtype)) a = rounded(a, dtype);
      emit({.op = Ir::store, .type = type, .a = a, .imm = static_cast<uint64_t>(operand)}, no_value);
      if (random_.chance(20)) step();
    }
    for (int k = 0; k < sums; ++k) {
      Type type = random_.among({Type::f32, Type::f32, Type::i32});
      program_.accumulators.push_back(
          {random_.among({Combine::sum, Combine::max, Combine::min, Combine::product}), type});
      uint16_t a = pick(type);
      emit({.op = Ir::accumulate, .type = type, .a = a, .imm = static_cast<uint64_t>(k)}, no_value);
    }
  }

  static constexpr Type no_value = Type::f64;

  Random& random_;
  Program program_;
  std::vector<Type> types_;
};

constexpr std::byte canary{0xa5};

/// One buffer of the run: what it held at first, and where its elements lie.
struct Buffer {
  test::Guarded memory;
  std::vector<std::byte> before, expected;
};

/// A program with buffers for it, to be run in several forms from the same state.
class Trial {
 public:
  Trial(const Program& program, Random& random) : program_(program), random_(random) {
    args_.rows = random.chance(5) ? 0 : random.chance(30) ? 1 : random.below(21);
    args_.columns = random.chance(4) ? 0 : random.below(random.chance(50) ? 20 : 101);
    args_.index = random.bits();
    args_.index_row = random.bits();
    for (int k = 0; k < 4; ++k) scalars_[k] = random.number(k == 0 ? Type::f32 : k == 1 ? Type::i32 : Type::mask);
    args_.scalars = scalars_;
    for (size_t k = 0; k < program.operands.size(); ++k) place_operand(k);
    for (size_t k = 0; k < program.accumulators.size(); ++k) place_accumulator(k);
  }

  void expect() {
    for (Buffer& buffer : buffers_) buffer.before.assign(buffer.memory.begin(), buffer.memory.end());
    reference::Interpreter(program_, args_).run();
    for (Buffer& buffer : buffers_) buffer.expected.assign(buffer.memory.begin(), buffer.memory.end());
  }

  /// From the same state as before `expect`.
  void check(KernelFn run, const void* context) {
    for (Buffer& buffer : buffers_) std::copy(buffer.before.begin(), buffer.before.end(), buffer.memory.begin());
    args_.context = context;
    run(&args_);
    for (size_t k = 0; k < buffers_.size(); ++k) compare(buffers_[k], dtypes_[k]);
  }

 private:
  /// The first written operand of a kind may be the same memory as one that is read.
  bool share(size_t k) {
    const ProgramOperand& operand = program_.operands[k];
    if (!operand.written || operand.streamed || operand.access == Access::broadcast || !random_.chance(50))
      return false;
    for (size_t j = 0; j < k; ++j) {
      const ProgramOperand& other = program_.operands[j];
      bool taken = std::find(shared_.begin(), shared_.end(), j) != shared_.end();
      if (other.written || taken || other.dtype != operand.dtype || other.access != operand.access) continue;
      shared_.push_back(j);
      args_.pointers[k] = args_.pointers[j];
      args_.row_strides[k] = args_.row_strides[j];
      return true;
    }
    return false;
  }

  void place_operand(size_t k) {
    if (share(k)) return;
    const ProgramOperand& operand = program_.operands[k];
    auto size = static_cast<int64_t>(size_of(operand.dtype));
    bool moves = operand.access == Access::contiguous;
    int64_t width = moves ? args_.columns * size : size;
    int64_t stride = width + (random_.chance(50) ? 0 : size * random_.below(5));
    if (!operand.written && random_.chance(20)) stride = 0;
    if (operand.streamed) stride = whole_vectors(stride);
    args_.row_strides[k] = stride;
    int64_t extent = args_.rows ? (args_.rows - 1) * stride + width : 0;
    args_.pointers[k] = fill(type_of(operand.dtype), operand.dtype, operand.streamed ? whole_vectors(extent) : extent);
  }
  static int64_t whole_vectors(int64_t bytes) { return (bytes + 63) / 64 * 64; }

  void place_accumulator(size_t k) {
    int64_t extent = program_.column_form ? 16 * args_.columns * 4 : args_.rows * 64;
    args_.accumulator_row_stride = 64;
    Type type = program_.accumulators[k].type;
    args_.accumulators[k] = fill(type, type == Type::f32 ? DType::f32 : DType::i32, extent);
  }

  /// A buffer of `extent` bytes that ends at the guard page, canaries before it.
  std::byte* fill(Type type, DType dtype, int64_t extent) {
    Buffer& buffer = buffers_.emplace_back();
    dtypes_.push_back(dtype);
    std::fill(buffer.memory.begin(), buffer.memory.end(), canary);
    REQUIRE(extent <= static_cast<int64_t>(buffer.memory.size()));
    std::byte* data = buffer.memory.end() - extent;
    for (int64_t at = 0; at < extent; at += static_cast<int64_t>(size_of(dtype))) {
      uint32_t bits = random_.number(type);
      if (dtype == DType::boolean) bits &= 1;
      if (is_short(dtype)) bits = random_.chance(30) ? bits >> 16 : f16_bits(as_float(bits));
      std::memcpy(data + at, &bits, size_of(dtype));
    }
    return data;
  }

  static bool is_nan(uint32_t bits, DType dtype) {
    if (dtype == DType::f16) return std::isnan(f16_value(static_cast<uint16_t>(bits)));
    if (dtype == DType::bf16) return std::isnan(bf16_value(static_cast<uint16_t>(bits)));
    return dtype == DType::f32 && std::isnan(as_float(bits));
  }

  static void compare(const Buffer& buffer, DType dtype) {
    const std::byte* got = buffer.memory.begin();
    const size_t size = is_short(dtype) ? 2 : 4;
    if (std::memcmp(got, buffer.expected.data(), buffer.expected.size()) == 0) return;
    for (size_t at = 0; at < buffer.expected.size(); at += size) {
      uint32_t x = 0, y = 0;
      std::memcpy(&x, got + at, size);
      std::memcpy(&y, buffer.expected.data() + at, size);
      if (x == y || (is_nan(x, dtype) && is_nan(y, dtype))) continue;
      INFO("byte " << buffer.expected.size() - at << " before the end of a buffer");
      REQUIRE(x == y);
    }
  }

  const Program& program_;
  Random& random_;
  KernelArgs args_{};
  uint64_t scalars_[4];
  std::deque<Buffer> buffers_;
  std::vector<DType> dtypes_;  // of each buffer
  std::vector<size_t> shared_;
};

/// Of the vectors that this processor has code for.
std::vector<int> widths() {
  std::vector<int> all;
  for (int lanes : {4, 8, 16})
    if (jit_compile({}, nullptr, lanes)) all.push_back(lanes);
  return all;
}

void try_programs(uint32_t first_seed, int count, int most_steps, int most_operands) {
  const std::vector<int> forms = widths();
  for (int k = 0; k < count; ++k) {
    uint32_t seed = first_seed + static_cast<uint32_t>(k);
    Random random(seed);
    Program program = Generator(random, 1 + random.below(most_steps), 1 + random.below(most_operands)).take();
    TileProgramPtr tiles = decode(program);
    std::deque<Trial> trials;
    for (int run = 0; run < 4; ++run) {
      trials.emplace_back(program, random).expect();
      trials.back().check(run_tile, tiles.get());
    }
    for (int lanes : forms) {
      std::string why;
      auto code = jit_compile(program, &why, lanes);
      INFO("seed " << seed << ", " << lanes << " lanes, " << why << "\n" << to_string(program));
      REQUIRE(code);
      for (Trial& trial : trials) trial.check(code->run, nullptr);
    }
  }
}

/// The lines of a disassembly of code, or nothing where there is no objdump.
std::vector<std::string> disassemble(const std::string& code) {
  if (std::system("objdump --version >/dev/null 2>&1") != 0) return {};
  std::string name = (std::filesystem::temp_directory_path() / "reprise-jit-XXXXXX").string();
  close(mkstemp(name.data()));
  std::ofstream(name) << code;
  FILE* const pipe = popen(("objdump -D -b binary -m i386:x86-64 -w --no-show-raw-insn " + name).c_str(), "r");
  REQUIRE(pipe);
  std::vector<std::string> lines;
  for (char line[512]; std::fgets(line, sizeof line, pipe);)
    if (std::strchr(line, ':') && std::strchr(line, '\t')) lines.emplace_back(line);
  CHECK(pclose(pipe) == 0);
  unlink(name.c_str());
  return lines;
}

size_t lines_with(const std::vector<std::string>& lines, const char* text) {
  return static_cast<size_t>(std::count_if(
      lines.begin(), lines.end(), [&](const std::string& line) { return line.find(text) != std::string::npos; }));
}

/// The code of random programs, one behind the other, for any processor.
std::string assemble_programs(int count, int lanes) {
  std::string all;
  for (int k = 0; k < count; ++k) {
    Random random(200000 + static_cast<uint32_t>(k));
    Program program = Generator(random, 1 + random.below(k % 4 ? 30 : 300), 1 + random.below(8)).take();
    std::string why;
    const auto code = jit_assemble(program, &why, lanes);
    INFO(lanes << " lanes, " << why << "\n" << to_string(program));
    REQUIRE(code);
    REQUIRE(code->entry < code->bytes.size());
    all.append(reinterpret_cast<const char*>(code->bytes.data()) + code->entry, code->bytes.size() - code->entry);
  }
  return all;
}

bool host_runs_code() { return !widths().empty(); }

}  // namespace

TEST_CASE("machine code of short programs does what the program says", "[jit]") {
  if (host_runs_code()) try_programs(1, 1500, 12, 4);
}

TEST_CASE("machine code of long programs does what the program says", "[jit]") {
  if (host_runs_code()) try_programs(100000, 300, 300, 20);
}

TEST_CASE("programs with types of 64 bits, and unknown widths, are refused with a reason", "[jit]") {
  Program program;
  program.operands.push_back({DType::f64, Access::contiguous, false});
  program.insts.push_back({.op = Ir::load, .type = Type::f64});
  std::string why;
  CHECK_FALSE(jit_compile(program, &why));
  CHECK_FALSE(why.empty());
  CHECK_FALSE(jit_compile({}, &why, 32));
  CHECK(why == "no such vector width");
}

TEST_CASE("what is assembled for any processor are instructions of its vectors alone", "[jit]") {
#if !defined(__x86_64__)
  return;
#endif
  constexpr int programs = 120;
  for (int lanes : {4, 8, 16}) {
    const std::string code = assemble_programs(programs, lanes);
    const std::vector<std::string> lines = disassemble(code);
    if (lines.empty()) {
      WARN("no objdump: the code is assembled, but not looked at");
      continue;
    }
    INFO(lanes << " lanes");
    CHECK(lines.size() > code.size() / 12);
    CHECK(lines_with(lines, "(bad)") == 0);
    CHECK(lines_with(lines, "\tret") == programs);
    CHECK((lines_with(lines, "%zmm") > lines.size() / 4) == (lanes == 16));
    CHECK((lines_with(lines, "{%k7}") > programs) == (lanes == 16));
    CHECK((lines_with(lines, "%ymm") > lines.size() / 4) == (lanes == 8));
  }
}

TEST_CASE("machine code cannot be written where it runs", "[jit]") {
  if (!host_runs_code()) return;
  auto at = reinterpret_cast<uintptr_t>(jit_compile({}, nullptr, 8)->run);
  std::ifstream maps("/proc/self/maps");
  std::string line, access;
  while (access.empty() && std::getline(maps, line)) {
    uintptr_t from = 0, to = 0;
    char flags[8] = "";
    if (std::sscanf(line.c_str(), "%zx-%zx %7s", &from, &to, flags) == 3 && from <= at && at < to) access = flags;
  }
  CHECK(access.substr(0, 3) == "r-x");
}
