#pragma once
// Programs that find one planted defect each, and what must be said about it.
#include <span>

#include "reprise/core/planted.h"
#include "reprise/graph/verify.h"

namespace rp {

struct PlantedCase {
  Defect defect;
  const char* name;
  VerifyReport (*find)();
  const char* rewrite;  // that bisect must name; empty: found by another check, which names none
  const char* op;
};

std::span<const PlantedCase> recorder_cases();
std::span<const PlantedCase> plan_cases();
std::span<const PlantedCase> kernel_cases();
std::span<const PlantedCase> loop_cases();

}  // namespace rp
