#pragma once
#include <string>

#include "reprise/fusion/region.h"

namespace rp::cuda {

/// What a map's text depends on beside the program.
struct MapForm {
  bool flat = true;      // one row only
  int axes = 1;          // those of the nest except the columns
  uint32_t members = 1;  // places in the table
  uint32_t vector = 1;   // elements
  uint32_t turns = 1;    // vectors that a thread takes at once
  bool wide = false;     // more than 2^31 pieces
};

std::string map_text(const Stage& stage, const MapForm& form);

}  // namespace rp::cuda
