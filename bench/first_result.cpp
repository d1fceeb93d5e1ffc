// The least program that computes something: for the time from its start to its first result, and its size.
#include "reprise/reprise.h"

int main() {
  const rp::Tensor x = rp::tensor({1.0f, 2.0f, 3.0f});
  return rp::sum(x * x).item<float>() == 14.0f ? 0 : 1;
}
