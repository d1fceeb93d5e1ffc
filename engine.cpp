// What core calls to its right.
#include "reprise/core/engine.h"

#include "reprise/backends/cpu/backend.h"
#include "reprise/backends/cuda/backend.h"
#include "reprise/eager/run.h"
#include "reprise/eager/tape.h"
#include "reprise/fusion/single.h"
#include "reprise/graph/control_run.h"
#include "reprise/graph/recorder.h"

namespace rp {
namespace {

Backend& backend(Device device) { return device.kind == DeviceKind::cpu ? cpu_backend() : cuda_backend(device); }

}  // namespace

constinit const Engine engine{
    .backend = backend,
    .run = run,
    .run_into = run_into,
    .run_out = run_out,
    .run_plan = run_plan,
    .run_control = run_control,
    .result_of = result_of,
    .scan_gradient = scan_gradient,
    .cond_gradient = cond_gradient,
    .compile = compile,
    .note = note,
    .note_write = note_write,
    .check_write = check_write,
    .drop_grad = drop_grad,
    .drop_history = drop_history,
    .backward = backward,
    .record = record,
    .before_read = before_read,
    .before_write = before_write,
};

}  // namespace rp
