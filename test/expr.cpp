// The builder of programs: sharing, folding, printing, errors; and Philox, which is an expression.
#include "reprise/core/expr.h"

#include <algorithm>
#include <cstring>

#include "reprise/backends/cpu/tile.h"
#include "reprise/core/error.h"
#include "reprise/test/catch.h"

using namespace rp;

TEST_CASE("equal instructions are shared, stores are not", "[expr]") {
  ProgramBuilder b;
  const int x = b.operand(DType::f32, Access::contiguous), o = b.operand(DType::f32, Access::contiguous);
  const Value first = b.load(x);
  CHECK(b.load(x).id == first.id);
  CHECK((first + 1.0).id == (first + 1.0).id);
  CHECK((first * 1.0).id == first.id);
  CHECK((first - 0.0).id == first.id);
  CHECK((first + 0.0).id != first.id);  // -0 + 0 is 0
  b.store(first, o);
  b.store(first, o);
  const Value again = b.load(o);
  CHECK(b.load(o).id == again.id);
  b.store(first + 2.0, o);
  CHECK(b.load(o).id != again.id);
  CHECK(b.load(x).id == first.id);
  int stores = 0;
  for (const Inst& i : b.program().insts) stores += i.op == Ir::store;
  CHECK(stores == 3);
  for (int i = 0; i < 3000; ++i) (first * static_cast<double>(i % 500 + 2));
  CHECK(b.program().insts.size() < 1200);
}

TEST_CASE("programs hash and print by content", "[expr]") {
  auto build = [](double factor) {
    ProgramBuilder b;
    const Value x = b.load(b.operand(DType::f32, Access::contiguous));
    b.store(exp(x * factor), b.operand(DType::boolean, Access::broadcast));
    return b.take();
  };
  CHECK(build(2) == build(2));
  CHECK(build(2).hash() == build(2).hash());
  CHECK(build(2).hash() != build(3).hash());
  ProgramBuilder b;
  const Value x = b.load(b.operand(DType::f64, Access::contiguous));
  const Value y = b.scalar(0, Type::f64), small = x < 2.0;  // the order of a call's arguments is the compiler's
  b.store(pow(x, select(small, y, 1.5)), b.operand(DType::boolean, Access::broadcast));
  b.accumulate(x, Combine::max);
  CHECK(to_string(b.program()) ==
        "#0: f64 contiguous\n#1: bool broadcast written\n@0: max f64 per row\n%0 = load f64 #0\n%1 = scalar f64 $0\n"
        "%2 = constant f64 2\n%3 = lt f64 %0, %2\n%4 = constant f64 1.5\n%5 = select f64 %3, %1, %4\n"
        "%6 = call f64 %0, %5 pow\nstore f64 %6 -> #1\naccumulate f64 %0 -> @0\n");
}

TEST_CASE("malformed expressions throw", "[expr]") {
  ProgramBuilder b;
  const Value x = b.constant(1, Type::f32), i = b.index(), m = x < 2.0;
  CHECK_THROWS_AS(x + i, Error);
  CHECK_THROWS_AS(m + m, Error);
  CHECK_THROWS_AS(exp(i), Error);
  CHECK_THROWS_AS(b.bitcast(x, Type::f64), Error);
  CHECK_THROWS_AS(b.accumulate(m, Combine::sum), Error);
  for (int k = 0; k < max_operands; ++k) b.operand(DType::f32, Access::contiguous);
  CHECK_THROWS_AS(b.operand(DType::f32, Access::contiguous), Error);
}

TEST_CASE("Philox gives the published words", "[expr]") {
  // the known answers of the Random123 distribution for philox4x32-10
  const uint32_t answers[3][10] = {{0, 0, 0, 0, 0, 0, 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8},
                                   {~0u, ~0u, ~0u, ~0u, ~0u, ~0u, 0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd},
                                   {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344, 0xa4093822, 0x299f31d0, 0xd16cfe09,
                                    0x94fdcceb, 0x5001e420, 0x24126ea1}};
  for (const auto& a : answers) {
    ProgramBuilder b;
    auto in = [&] { return b.load(b.operand(DType::i32, Access::contiguous)); };
    const Value counter[4] = {in(), in(), in(), in()}, key[2] = {in(), in()};
    const Philox p = philox(counter, key);
    for (Value w : p.words) b.store(w, b.operand(DType::i32, Access::contiguous));
    const TileProgramPtr program = decode(b.program());
    uint32_t words[10] = {};
    std::memcpy(words, a, 24);
    KernelArgs args{};
    for (int k = 0; k < 10; ++k) args.pointers[k] = reinterpret_cast<std::byte*>(words + k);
    args.rows = args.columns = 1, args.context = program.get();
    run_tile(&args);
    CHECK(std::equal(words, words + 10, a));
  }
}
