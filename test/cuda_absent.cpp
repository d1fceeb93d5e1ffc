// The library as it is built without CUDA's headers: the program has the file that then stands for the backend.
#include "reprise/reprise.h"
#include "reprise/test/catch.h"

using Catch::Matchers::Contains;

TEST_CASE("without CUDA there is no device, and whatever needs one says how to get it", "[cuda]") {
  namespace cuda = rp::cuda;
  CHECK_FALSE(cuda::is_available());
  CHECK(cuda::device_count() == 0);
  CHECK_THAT(cuda::why_not(), Contains("this build is without CUDA") && Contains("-Dcuda=enabled"));
  CHECK_THROWS_WITH(cuda::device_name(), Contains(cuda::why_not()));
  CHECK_THROWS_WITH(cuda::describe(), Contains(cuda::why_not()));
  CHECK_THROWS_WITH(cuda::synchronize(), Contains(cuda::why_not()));
  CHECK(cuda::memory_stats().reserved == 0);
  CHECK_NOTHROW(cuda::trim_memory());
  CHECK_NOTHROW(cuda::reset_memory_peak());
  CHECK_THROWS_WITH(rp::ones({2}).to(rp::Device::cuda()), Contains("cuda:0") && Contains(cuda::why_not()));
  CHECK((rp::ones({2}) + rp::ones({2})).to_vector<float>() == std::vector<float>{2, 2});
}
