#include <algorithm>
#include <vector>

#include "reprise/core/ops/define.h"

namespace rp {

std::span<const Op* const> op_table() {
  static const std::vector<const Op*> table = [] {
    std::vector<const Op*> all;
    for (Entries family : {structure_entries(), view_entries(), arithmetic_entries(), elementary_entries(),
                           activation_entries(), random_entries(), reduce_entries(), matrix_entries(), norm_entries(),
                           window_entries(), index_entries(), control_entries()})
      all.insert(all.end(), family.begin(), family.end());
    return all;
  }();
  return table;
}

const Op* find_op(std::string_view name) {
  const auto table = op_table();
  const auto it = std::find_if(table.begin(), table.end(), [&](const Op* op) { return op->name == name; });
  return it == table.end() ? nullptr : *it;
}

}  // namespace rp
