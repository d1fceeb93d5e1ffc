#pragma once
#include <cstddef>

namespace rp {

/// Bytes of data that a cache of the first processor holds, by level from 1; 0 stands for the last level. What the
/// system does not tell is taken to be 32 KiB, 512 KiB and 8 MiB.
size_t cache_bytes(int level);

}  // namespace rp
