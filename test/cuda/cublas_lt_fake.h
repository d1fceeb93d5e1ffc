#pragma once
// A cuBLASLt that multiplies on the processor, in the memory of the fake device that lives. Its calls stand in that
// device's log and can be made to fail there; what it is told wrongly is a finding of that device.
#include <cstdint>
#include <vector>

#include "reprise/backends/cuda/cublas_lt.h"

namespace rp::test {

struct FakeLtProduct {
  cublasLtEpilogue_t epilogue;
  cudaDataType_t factors, result;
  size_t workspace;  // bytes
};

struct FakeLt {
  std::vector<FakeLtProduct> products;  // that were multiplied, graphs' runs included
  int64_t live = 0;                     // handles and descriptors that were not destroyed
  bool knows_nothing = false;           // no algorithm for any product
  bool knows_no_epilogue = false;       // only for products with nothing behind them
};
FakeLt& fake_lt();

/// While it lives, products are for the fake.
class UsesFakeLt {
 public:
  UsesFakeLt();
  ~UsesFakeLt();
  UsesFakeLt(const UsesFakeLt&) = delete;
};

}  // namespace rp::test
