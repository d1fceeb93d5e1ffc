#include "reprise/test/cuda/state.h"

#include <fmt/core.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

namespace rp::fake {

State* state = nullptr;

State::~State() {
  for (const auto& [data, bytes] : host) std::free(data);
  for (const StreamState* const s : streams) delete s;
  for (const EventState* const e : events) delete e;
  for (const Graph* const g : graphs) delete g;
  for (const Exec* const e : execs) delete e;
}

std::optional<int> State::enter(const char* name, std::vector<uint64_t> arguments, bool has_status) {
  log.push_back({name, std::move(arguments)});
  if (!has_status) return {};
  if (fail_name == name && --fail_after == 0) {
    fail_name.clear();
    has_failed = true;
    return fail_status;
  }
  if (sticky != cudaSuccess && log.back().name.starts_with("cuda")) return sticky;
  return {};
}

cudaError_t State::find(std::string text, cudaError_t status) {
  findings.push_back(std::move(text));
  return status;
}

void State::fault(std::string text, cudaError_t status) {
  findings.push_back(std::move(text));
  if (sticky == cudaSuccess) sticky = status;
}

cudaError_t State::forbidden(const char* what) {
  for (const auto& capture : captures)
    if (capture->thread == std::this_thread::get_id()) {
      capture->broken = true;
      return find(fmt::format("{} while a stream is captured", what), cudaErrorStreamCaptureUnsupported);
    }
  return cudaSuccess;
}

StreamState* State::stream(cudaStream_t handle) {
  auto* const s = reinterpret_cast<StreamState*>(handle);
  if (streams.contains(s)) return s;
  find(s ? "a stream that does not exist" : "the default stream, which waits for all others");
  return nullptr;
}

bool State::pinned(const void* data, size_t bytes) const {
  auto* const from = static_cast<char*>(const_cast<void*>(data));
  auto found = host.upper_bound(from);
  if (found == host.begin()) return false;
  --found;
  return from + bytes <= found->first + found->second;
}

/// Memory that work touches must be there, both when it is queued and when it runs.
cudaError_t State::check(const Work& work) {
  if (work.kind == Work::Kind::kernel || work.kind == Work::Kind::call) return cudaSuccess;
  const auto check_place = [&](const void* data, const char* verb) {
    if (arena.holds(data, work.bytes) || pinned(data, work.bytes)) return cudaSuccess;
    if (!arena.contains(data)) return find(fmt::format("a copy that {} memory which is not pinned", verb));
    return find(fmt::format("a copy that {} {} bytes which are not in one allocation", verb, work.bytes));
  };
  const cudaError_t status = check_place(work.to, "writes");
  return status != cudaSuccess || work.kind == Work::Kind::fill ? status : check_place(work.from, "reads");
}

void State::run(const Work& work) {
  if (sticky != cudaSuccess) return;
  if (check(work) != cudaSuccess) return fault("its memory is gone when it runs", cudaErrorIllegalAddress);
  switch (work.kind) {
    case Work::Kind::copy:
      std::memmove(work.to, work.from, work.bytes);
      break;
    case Work::Kind::fill:
      std::memset(work.to, work.value, work.bytes);
      break;
    case Work::Kind::call:
      work.call();
      break;
    case Work::Kind::kernel: {
      const std::string wrong = run_grid(*work.function, work.args.data(), work.shape, schedule);
      if (!wrong.empty()) return fault(wrong, cudaErrorLaunchFailure);
    }
  }
  if (const std::string where = arena.damage(); !where.empty())
    fault(fmt::format("{} wrote {}",
                      work.function ? "kernel " + work.function->name
                      : work.call   ? "a library"
                                    : "a copy",
                      where),
          cudaErrorIllegalAddress);
}

cudaError_t State::queue(StreamState* s, Work work) {
  if (!s) return cudaErrorInvalidResourceHandle;
  if (const cudaError_t wrong = check(work); wrong != cudaSuccess) return wrong;
  if (!s->capture) {
    if (work.kind == Work::Kind::kernel)
      launched.push_back({work.function->name, work.shape.blocks, work.shape.threads, work.shape.shared_bytes,
                          work.shape.cluster, work.shape.cooperative});
    s->queue.push_back([this, work = std::move(work)] { run(work); });
    return cudaSuccess;
  }
  auto node = std::make_unique<Node>();
  node->work = std::move(work);
  node->before = s->tails;
  s->tails = {node.get()};
  s->capture->graph->nodes.push_back(std::move(node));
  return cudaSuccess;
}

bool State::run_one(StreamState* s) {
  if (s->queue.empty()) return false;
  const Arena::Open open(arena);
  const std::function<void()> next = std::move(s->queue.front());
  s->queue.pop_front();
  next();
  return true;
}

void State::run_all(StreamState* s) {
  if (s->queue.empty()) return;
  const Arena::Open open(arena);  // once for all
  while (run_one(s)) {
  }
}

void State::run_until(const std::shared_ptr<Mark>& mark) {
  if (mark->reached) return;
  const Arena::Open open(arena);
  while (!mark->reached && run_one(mark->stream)) {
  }
}

void State::run_everything() {
  for (StreamState* const s : streams) run_all(s);
}

}  // namespace rp::fake
