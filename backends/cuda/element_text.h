#pragma once
#include <functional>
#include <string>

#include "reprise/core/program.h"

namespace rp::cuda {

/// What a program's operands, accumulators, index and scalars are in the text around it.
struct ElementText {
  std::function<std::string(int operand)> load{};                      // an expression of the operand's element
  std::function<std::string(int operand, std::string value)> store{};  // a statement; the value has the element's type
  std::function<std::string(int accumulator, std::string value)> accumulate{};  // a statement
  std::string index{};                                                          // a u32 expression
  std::string scalars{};                                                        // a const u64*, one for each scalar
};

/// The program for one element as statements of CUDA C, one a line: value %3 is `v3`. What is loaded under a plain
/// name, and constants, stand where they are used; what nothing uses is left out.
std::string element_text(const Program& program, const ElementText& how);

/// "f32"; bool is "u8" in memory, and a mask "bool".
std::string c_type(DType dtype);
std::string c_type(Type type);
/// `value` of type `from` as an expression of type `to`.
std::string converted_text(const std::string& value, Type from, Type to);

/// How often the program uses its index.
bool uses_index(const Program& program);

}  // namespace rp::cuda
