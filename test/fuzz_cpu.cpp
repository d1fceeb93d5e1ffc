#include "reprise/test/fuzz.h"

namespace fuzz {

void use_device() {}

}  // namespace fuzz
