// Streams, events, and the captures that they join.
#include <algorithm>

#include "reprise/test/cuda/state.h"

namespace rp::fake {
namespace {

cudaError_t create_stream(cudaStream_t* stream, unsigned flags) {
  if (flags != cudaStreamNonBlocking) return state->find("a stream that waits for the default stream");
  auto* const s = new StreamState;
  state->streams.insert(s);
  *stream = reinterpret_cast<cudaStream_t>(s);
  return cudaSuccess;
}

cudaError_t destroy_stream(cudaStream_t stream) {
  StreamState* const s = state->stream(stream);
  if (!s) return cudaErrorInvalidResourceHandle;
  state->run_all(s);
  state->streams.erase(s);
  delete s;
  return cudaSuccess;
}

cudaError_t synchronize(cudaStream_t stream) {
  StreamState* const s = state->stream(stream);
  if (!s) return cudaErrorInvalidResourceHandle;
  if (const cudaError_t wrong = state->forbidden("cudaStreamSynchronize"); wrong != cudaSuccess) return wrong;
  state->run_all(s);
  return state->sticky;
}

/// Something happens between two questions, so that asking again and again comes to an end.
cudaError_t query_stream(cudaStream_t stream) {
  StreamState* const s = state->stream(stream);
  if (!s) return cudaErrorInvalidResourceHandle;
  if (const cudaError_t wrong = state->forbidden("cudaStreamQuery"); wrong != cudaSuccess) return wrong;
  state->run_one(s);
  return s->queue.empty() ? state->sticky : cudaErrorNotReady;
}

EventState* event_of(cudaEvent_t event) {
  auto* const e = reinterpret_cast<EventState*>(event);
  if (state->events.contains(e)) return e;
  state->find("an event that does not exist");
  return nullptr;
}

cudaError_t create_event(cudaEvent_t* event, unsigned) {
  auto* const e = new EventState;
  state->events.insert(e);
  *event = reinterpret_cast<cudaEvent_t>(e);
  return cudaSuccess;
}

cudaError_t destroy_event(cudaEvent_t event) {
  EventState* const e = event_of(event);
  if (!e) return cudaErrorInvalidResourceHandle;
  state->events.erase(e);
  delete e;
  return cudaSuccess;
}

cudaError_t record(cudaEvent_t event, cudaStream_t stream) {
  EventState* const e = event_of(event);
  StreamState* const s = state->stream(stream);
  if (!e || !s) return cudaErrorInvalidResourceHandle;
  e->mark = std::make_shared<Mark>();
  e->mark->stream = s;
  e->mark->capture = s->capture;
  e->mark->tails = s->tails;
  if (!s->capture) s->queue.push_back([mark = e->mark] { mark->reached = true; });
  return cudaSuccess;
}

/// A stream that waits for an event of a captured one is captured, too.
cudaError_t wait_event(cudaStream_t stream, cudaEvent_t event, unsigned) {
  EventState* const e = event_of(event);
  StreamState* const s = state->stream(stream);
  if (!e || !s) return cudaErrorInvalidResourceHandle;
  if (!e->mark) return cudaSuccess;
  if (!e->mark->capture) {
    if (s->capture)
      return state->find("a captured stream that waits for work outside", cudaErrorStreamCaptureIsolation);
    s->queue.push_back([mark = e->mark] { state->run_until(mark); });
    return cudaSuccess;
  }
  if (s->capture && s->capture != e->mark->capture)
    return state->find("two captures in one stream", cudaErrorStreamCaptureMerge);
  s->capture = e->mark->capture;
  for (Node* const node : e->mark->tails)
    if (std::ranges::find(s->tails, node) == s->tails.end()) s->tails.push_back(node);
  return cudaSuccess;
}

cudaError_t synchronize_event(cudaEvent_t event) {
  EventState* const e = event_of(event);
  if (!e) return cudaErrorInvalidResourceHandle;
  if (const cudaError_t wrong = state->forbidden("cudaEventSynchronize"); wrong != cudaSuccess) return wrong;
  if (e->mark) state->run_until(e->mark);
  return state->sticky;
}

cudaError_t query_event(cudaEvent_t event) {
  EventState* const e = event_of(event);
  if (!e) return cudaErrorInvalidResourceHandle;
  if (const cudaError_t wrong = state->forbidden("cudaEventQuery"); wrong != cudaSuccess) return wrong;
  if (!e->mark || e->mark->reached) return state->sticky;
  state->run_one(e->mark->stream);
  return e->mark->reached ? state->sticky : cudaErrorNotReady;
}

/// No time passes on this device.
cudaError_t elapsed(float* milliseconds, cudaEvent_t begin, cudaEvent_t end) {
  EventState *const b = event_of(begin), *const e = event_of(end);
  if (!b || !e || !b->mark || !e->mark) return cudaErrorInvalidResourceHandle;
  *milliseconds = 0;
  return b->mark->reached && e->mark->reached ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t begin_capture(cudaStream_t stream, cudaStreamCaptureMode) {
  StreamState* const s = state->stream(stream);
  if (!s) return cudaErrorInvalidResourceHandle;
  if (s->capture) return state->find("a capture within a capture", cudaErrorIllegalState);
  s->capture = std::make_shared<Capture>();
  s->origin = true;
  state->captures.push_back(s->capture);
  return cudaSuccess;
}

/// Whether `node` is among `from` and everything that comes before them.
bool comes_before(const Node* node, const std::vector<Node*>& from) {
  return std::ranges::any_of(from, [&](const Node* n) { return n == node || comes_before(node, n->before); });
}

cudaError_t end_capture(cudaStream_t stream, cudaGraph_t* graph) {
  StreamState* const s = state->stream(stream);
  if (!s) return cudaErrorInvalidResourceHandle;
  if (!s->capture || !s->origin) return state->find("the end of a capture that this stream did not begin");
  const std::shared_ptr<Capture> capture = s->capture;
  bool joined = true;
  for (StreamState* const other : state->streams) {
    if (other->capture != capture) continue;
    for (const Node* const tail : other->tails) joined &= comes_before(tail, s->tails);
    if (other == s) continue;
    other->capture = nullptr;
    other->tails.clear();
  }
  s->capture = nullptr;
  s->tails.clear();
  s->origin = false;
  std::erase(state->captures, capture);
  *graph = nullptr;
  if (capture->broken) return cudaErrorStreamCaptureInvalidated;
  if (!joined) return state->find("a captured stream that does not come back", cudaErrorStreamCaptureUnjoined);
  Graph* const made = capture->graph.release();
  state->graphs.insert(made);
  *graph = reinterpret_cast<cudaGraph_t>(made);
  return cudaSuccess;
}

cudaError_t is_capturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  StreamState* const s = state->stream(stream);
  if (!s) return cudaErrorInvalidResourceHandle;
  *status = !s->capture          ? cudaStreamCaptureStatusNone
            : s->capture->broken ? cudaStreamCaptureStatusInvalidated
                                 : cudaStreamCaptureStatusActive;
  return cudaSuccess;
}

cudaError_t exchange_mode(cudaStreamCaptureMode* mode) {
  static thread_local cudaStreamCaptureMode now = cudaStreamCaptureModeGlobal;
  std::swap(now, *mode);
  return cudaSuccess;
}

}  // namespace

void put_streams(cuda::Runtime& table) {
  put<create_stream>(table.cudaStreamCreateWithFlags);
  put<destroy_stream>(table.cudaStreamDestroy);
  put<synchronize>(table.cudaStreamSynchronize);
  put<query_stream>(table.cudaStreamQuery);
  put<wait_event>(table.cudaStreamWaitEvent);
  put<create_event>(table.cudaEventCreateWithFlags);
  put<destroy_event>(table.cudaEventDestroy);
  put<record>(table.cudaEventRecord);
  put<synchronize_event>(table.cudaEventSynchronize);
  put<query_event>(table.cudaEventQuery);
  put<elapsed>(table.cudaEventElapsedTime);
  put<begin_capture>(table.cudaStreamBeginCapture);
  put<end_capture>(table.cudaStreamEndCapture);
  put<is_capturing>(table.cudaStreamIsCapturing);
  put<exchange_mode>(table.cudaThreadExchangeStreamCaptureMode);
}

}  // namespace rp::fake
