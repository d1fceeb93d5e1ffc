#pragma once
// The umbrella: all that a program needs.
#include "reprise/backends/cuda/cuda.h"
#include "reprise/core/ops.h"
#include "reprise/core/random.h"
#include "reprise/core/tensor.h"
#include "reprise/eager/grad.h"
#include "reprise/graph/capture.h"
#include "reprise/graph/control.h"
#include "reprise/graph/nan_guard.h"
#include "reprise/graph/stepper.h"
#include "reprise/graph/verify.h"
#include "reprise/nn/nn.h"
