#pragma once
// Random recurrent cells. A cell is data: gates, a few instructions over registers of [batch, hidden], and which of
// them are the next states and the outputs. It is run by `scan` and by a plain loop, eagerly, captured and verified;
// all must agree, in values and in gradients. Whatever its numbers are, a cell has a meaning, so that shrinking may
// change any of them.
#include <functional>
#include <string>
#include <vector>

#include "reprise/core/op.h"
#include "reprise/graph/capture.h"

namespace cells {

enum class Do : uint8_t {
  unary,    // table op of a
  binary,   // table op of a and b
  mul,      // a * b
  mix,      // sigmoid(c) * a + (1 - sigmoid(c)) * b
  product,  // a · V, V [hidden, hidden]
  peep,     // a + b * p, p [hidden]
  norm,     // layer_norm(a, scale, shift)
  bias,     // a + b, b [hidden]
  scale,    // a * a number, another one at each call
  centre,   // a - mean of a's row
  softmax,  // of a's rows
  roll,     // a's columns, the first ones moved to the end
  tied,     // a · U, the first square weight there is
  input,    // a + a column of x
  choose,   // a where a > b, else c
  dropout,  // of a
  detach,   // a without its history
  quiet,    // tanh(a * b), not noted
  branch,   // a * b if the sum of c is positive, else c
  inner,    // a after two steps of tanh(a * p + b)
};

struct Instruction {
  Do what = Do::unary;
  int op = 0;               // which table op, of those with that many operands
  int a = 0, b = 0, c = 0;  // registers, counted in a circle
};

/// Registers: the states, the gates' sums, then one for each instruction.
struct Cell {
  uint64_t seed = 0;
  int hidden = 4, inputs = 3, batch = 2;
  int steps = 3, other_steps = 2;  // of the calls, in turn
  int gates = 1, states = 1;
  bool merged = false;       // the gates' weights are one tensor, whose product is split
  bool bias = false;         // of the gates
  bool transposed = false;   // recurrent weights are used through a transposed view
  bool doubled = false;      // recurrent weights are doubled inside the body
  bool masked = false;       // sequences end at different steps
  bool by_product = false;   // the mask is multiplied by rather than chosen by
  bool residual = false;     // next states are added to the states
  bool reverse = false;      // from the last step to the first
  bool f32 = false;          // what modes are compared in
  bool input_leaf = false;   // inputs require gradients
  bool state_leaf = false;   // so do initial states
  bool batch_first = false;  // inputs lie so in memory
  int loss = 0;              // of results and last states, of either
  std::vector<Instruction> body{};
  std::vector<int> next{0};    // registers, one for each state; others follow in a circle
  std::vector<int> outputs{};  // registers
};

Cell generate(uint64_t seed);
/// As C++ that makes the cell, with what its instructions mean.
std::string to_text(const Cell& cell);
/// Removes what can go while `fails` stays true.
Cell shrink(Cell cell, const std::function<bool(const Cell&)>& fails);

/// Ops of the table that have a gradient and take this many operands of a floating-point dtype.
const std::vector<const rp::Op*>& smooth_ops(int operands);
/// Register `i` of `count`, counted in a circle.
inline size_t wrap(int i, size_t count) { return static_cast<size_t>(i) % count; }

/// What is wrong with the engine's way to run this cell; empty if nothing is. The captured runs' counts of ops are
/// added to `seen`.
std::string problem(const Cell& cell, rp::CaptureStats* seen = nullptr);

}  // namespace cells
