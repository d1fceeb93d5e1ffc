#include "reprise/test/cuda/cudnn_fake.h"

#include <cstring>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "reprise/test/cuda/state.h"

namespace rp::test {
namespace {

using Json = nlohmann::json;
using Pointer = std::shared_ptr<FakeDescriptor>;

FakeCudnn state;
std::string complaint;
cudaStream_t stream = nullptr;

cudnnStatus_t wrong(cudnnStatus_t status, std::string text) {
  complaint = std::move(text);
  return status;
}

/// Whether this call is the one that is to fail.
bool planted() {
  const bool now = state.calls++ == state.fail_at;
  if (now) complaint = "planted";
  return now;
}

Pointer& held(cudnnBackendDescriptor_t descriptor) { return *static_cast<Pointer*>(descriptor); }

Json json_of(const FakeDescriptor& d) {
  Json values = Json::array();
  for (const auto& [name, v] : d.values) {
    Json children = Json::array();
    for (const Pointer& c : v.children) children.push_back(json_of(*c));
    std::vector<int> bytes;
    for (const char c : v.bytes) bytes.push_back(static_cast<unsigned char>(c));
    values.push_back({{"name", static_cast<int>(name)},
                      {"type", static_cast<int>(v.type)},
                      {"count", v.count},
                      {"bytes", bytes},
                      {"children", children}});
  }
  return {{"type", static_cast<int>(d.type)}, {"values", values}};
}

Pointer from_json(const Json& json) {
  auto d = std::make_shared<FakeDescriptor>();
  d->type = static_cast<cudnnBackendDescriptorType_t>(json.at("type").get<int>());
  d->finalized = true;
  for (const Json& v : json.at("values")) {
    FakeDescriptor::Value& value = d->values[static_cast<cudnnBackendAttributeName_t>(v.at("name").get<int>())];
    value.type = static_cast<cudnnBackendAttributeType_t>(v.at("type").get<int>());
    value.count = v.at("count").get<int64_t>();
    for (const int c : v.at("bytes").get<std::vector<int>>()) value.bytes += static_cast<char>(c);
    for (const Json& c : v.at("children")) value.children.push_back(from_json(c));
  }
  return d;
}

size_t bytes_of(cudnnBackendAttributeType_t type) {
  switch (type) {
    case CUDNN_TYPE_INT64:
    case CUDNN_TYPE_DOUBLE:
    case CUDNN_TYPE_VOID_PTR:
    case CUDNN_TYPE_HANDLE:
      return 8;
    case CUDNN_TYPE_BOOLEAN:
    case CUDNN_TYPE_CHAR:
      return 1;
    default:
      return 4;
  }
}

void give(FakeDescriptor& d, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, const void* data,
          int64_t count) {
  d.values[name] = {
      type, count, std::string(static_cast<const char*>(data), bytes_of(type) * static_cast<size_t>(count)), {}};
}

// ---- what each descriptor must have ----

cudnnStatus_t check_tensor(const FakeDescriptor& d) {
  if (!d.has(CUDNN_ATTR_TENSOR_DATA_TYPE) || !d.has(CUDNN_ATTR_TENSOR_DIMENSIONS) ||
      !d.has(CUDNN_ATTR_TENSOR_STRIDES) || !d.has(CUDNN_ATTR_TENSOR_UNIQUE_ID))
    return wrong(CUDNN_STATUS_BAD_PARAM, "a tensor has a type, dimensions, strides and a number");
  const auto dims = d.list<int64_t>(CUDNN_ATTR_TENSOR_DIMENSIONS);
  if (dims.size() != d.list<int64_t>(CUDNN_ATTR_TENSOR_STRIDES).size())
    return wrong(CUDNN_STATUS_BAD_PARAM, "as many dimensions as strides");
  for (const int64_t n : dims)
    if (n < 1) return wrong(CUDNN_STATUS_BAD_PARAM, "dimensions start at 1");
  return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t check_plan(FakeDescriptor& d) {
  if (!d.has(CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP) && !d.has(CUDNN_ATTR_EXECUTION_PLAN_HANDLE))
    return wrong(CUDNN_STATUS_BAD_PARAM, "a plan is for a device");
  if (d.has(CUDNN_ATTR_EXECUTION_PLAN_JSON_REPRESENTATION)) {
    const Pointer stored = descriptor_of(d.at(CUDNN_ATTR_EXECUTION_PLAN_JSON_REPRESENTATION).bytes);
    if (!stored) return wrong(CUDNN_STATUS_SERIALIZATION_VERSION_MISMATCH, "not the text of a plan");
    d.values = stored->values;
    ++state.loads;
    return CUDNN_STATUS_SUCCESS;
  }
  const FakeDescriptor& engine = d.child(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG).child(CUDNN_ATTR_ENGINECFG_ENGINE);
  const auto number = engine.one<int64_t>(CUDNN_ATTR_ENGINE_GLOBAL_INDEX);
  if (state.refuses_everything || number == 4)
    return wrong(CUDNN_STATUS_NOT_SUPPORTED_SHAPE, "this engine supports nothing");
  const int64_t workspace = 100 * number;
  give(d, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, &workspace, 1);
  ++state.choices;
  return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t check(FakeDescriptor& d) {
  for (const auto& [name, v] : d.values)
    for (const Pointer& c : v.children)
      if (!c->finalized) return wrong(CUDNN_STATUS_BAD_PARAM_NOT_FINALIZED, "a part is not finalized");
  if (d.type == CUDNN_BACKEND_TENSOR_DESCRIPTOR) return check_tensor(d);
  if (d.type == CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR) return check_plan(d);
  if (d.type == CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR && !d.has(CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION)) {
    const std::string text = R"({"deviceName":"fake"})";
    give(d, CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, CUDNN_TYPE_CHAR, text.data(), static_cast<int64_t>(text.size()));
  }
  return CUDNN_STATUS_SUCCESS;
}

// ---- engines ----

struct Proposal {
  int64_t engine;
  std::vector<cudnnBackendNumericalNote_t> notes;
};

// All but the last two have something that must not be, or cannot be; the last is the fallback.
std::vector<Proposal> proposals(cudnnBackendHeurMode_t mode) {
  if (mode == CUDNN_HEUR_MODE_FALLBACK) return {{0, {}}};
  return {{1, {CUDNN_NUMERICAL_NOTE_TENSOR_CORE, CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS}},
          {2, {CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC}},
          {3, {CUDNN_NUMERICAL_NOTE_WINOGRAD}},
          {4, {}},
          {5, {CUDNN_NUMERICAL_NOTE_STRICT_NAN_PROP}}};
}

Pointer configuration(const FakeDescriptor& heuristics, const Proposal& proposal) {
  auto engine = std::make_shared<FakeDescriptor>();
  engine->type = CUDNN_BACKEND_ENGINE_DESCRIPTOR;
  engine->finalized = true;
  engine->values[CUDNN_ATTR_ENGINE_OPERATION_GRAPH] = heuristics.at(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH);
  give(*engine, CUDNN_ATTR_ENGINE_GLOBAL_INDEX, CUDNN_TYPE_INT64, &proposal.engine, 1);
  give(*engine, CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, CUDNN_TYPE_NUMERICAL_NOTE, proposal.notes.data(),
       static_cast<int64_t>(proposal.notes.size()));
  auto config = std::make_shared<FakeDescriptor>();
  config->type = CUDNN_BACKEND_ENGINECFG_DESCRIPTOR;
  config->finalized = true;
  config->values[CUDNN_ATTR_ENGINECFG_ENGINE] = {CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, {}, {engine}};
  return config;
}

// ---- the functions ----

const char* error_string(cudnnStatus_t status) {
  return CUDNN_STATUS_CATEGORY(status) == CUDNN_STATUS_NOT_SUPPORTED ? "FAKE_NOT_SUPPORTED" : "FAKE_ERROR";
}

void last_error(char* text, size_t size) { std::snprintf(text, size, "%s", complaint.c_str()); }

cudnnStatus_t create_handle(cudnnHandle_t* handle) {
  if (planted()) return state.fail_with;
  *handle = reinterpret_cast<cudnnHandle_t>(&state);
  return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t destroy_handle(cudnnHandle_t) { return CUDNN_STATUS_SUCCESS; }
cudnnStatus_t set_stream(cudnnHandle_t, cudaStream_t to) {
  if (planted()) return state.fail_with;
  stream = to;
  return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t create(cudnnBackendDescriptorType_t type, cudnnBackendDescriptor_t* descriptor) {
  if (planted()) return state.fail_with;
  auto made = std::make_shared<FakeDescriptor>();
  made->type = type;
  *descriptor = new Pointer(made);
  ++state.live;
  return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t destroy(cudnnBackendDescriptor_t descriptor) {
  delete static_cast<Pointer*>(descriptor);
  --state.live;
  return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t set(cudnnBackendDescriptor_t descriptor, cudnnBackendAttributeName_t name,
                  cudnnBackendAttributeType_t type, int64_t count, const void* elements) {
  if (planted()) return state.fail_with;
  FakeDescriptor& d = *held(descriptor);
  if (d.finalized) return wrong(CUDNN_STATUS_BAD_PARAM, "set after finalize");
  if (type != CUDNN_TYPE_BACKEND_DESCRIPTOR) {
    give(d, name, type, elements, count);
    return CUDNN_STATUS_SUCCESS;
  }
  FakeDescriptor::Value value{type, count, {}, {}};
  for (int64_t i = 0; i < count; ++i) value.children.push_back(held(static_cast<void* const*>(elements)[i]));
  d.values[name] = std::move(value);
  return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t get(cudnnBackendDescriptor_t descriptor, cudnnBackendAttributeName_t name,
                  cudnnBackendAttributeType_t type, int64_t room, int64_t* count, void* elements) {
  if (planted()) return state.fail_with;
  const FakeDescriptor& d = *held(descriptor);
  if (!d.finalized) return wrong(CUDNN_STATUS_BAD_PARAM_NOT_FINALIZED, "get before finalize");
  FakeDescriptor::Value value;
  if (name == CUDNN_ATTR_ENGINEHEUR_RESULTS) {
    for (const Proposal& p : proposals(d.one<cudnnBackendHeurMode_t>(CUDNN_ATTR_ENGINEHEUR_MODE)))
      value.children.push_back(configuration(d, p));
    value.count = static_cast<int64_t>(value.children.size());
  } else if (name == CUDNN_ATTR_EXECUTION_PLAN_JSON_REPRESENTATION) {
    value.bytes = text_of(d);
    value.count = static_cast<int64_t>(value.bytes.size());
  } else {
    if (!d.has(name)) return wrong(CUDNN_STATUS_BAD_PARAM, "there is no such attribute");
    value = d.at(name);
  }
  *count = value.count;
  const auto given = static_cast<size_t>(std::min(room, value.count));
  for (size_t i = 0; i < given && type == CUDNN_TYPE_BACKEND_DESCRIPTOR; ++i)
    held(static_cast<void**>(elements)[i]) = value.children[i];
  if (given && type != CUDNN_TYPE_BACKEND_DESCRIPTOR) std::memcpy(elements, value.bytes.data(), given * bytes_of(type));
  return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t finalize(cudnnBackendDescriptor_t descriptor) {
  if (planted()) return state.fail_with;
  FakeDescriptor& d = *held(descriptor);
  const cudnnStatus_t status = check(d);
  d.finalized = status == CUDNN_STATUS_SUCCESS;
  return status;
}

cudnnStatus_t execute(cudnnHandle_t, cudnnBackendDescriptor_t plan, cudnnBackendDescriptor_t pack) {
  if (planted()) return state.fail_with;
  const FakeDescriptor &p = *held(plan), &v = *held(pack);
  const auto ids = v.list<int64_t>(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS);
  const auto pointers = v.list<void*>(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS);
  if (ids.size() != pointers.size()) return wrong(CUDNN_STATUS_BAD_PARAM, "as many numbers as pointers");
  std::map<int64_t, void*> memory;
  for (size_t i = 0; i < ids.size(); ++i) memory[ids[i]] = pointers[i];
  const auto bytes = static_cast<size_t>(p.one<int64_t>(CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE));
  void* const workspace = v.one<void*>(CUDNN_ATTR_VARIANT_PACK_WORKSPACE);
  const auto work = [graph = p.child(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG)
                                 .child(CUDNN_ATTR_ENGINECFG_ENGINE)
                                 .at(CUDNN_ATTR_ENGINE_OPERATION_GRAPH)
                                 .children.at(0),
                     memory, workspace, bytes] {
    if (bytes) std::memset(workspace, 0xFF, bytes);
    run_fake_graph(*graph, memory);
    ++state.runs;
  };
  const cudaError_t queued =
      fake::state->queue(fake::state->stream(stream), {.kind = fake::Work::Kind::call, .call = work});
  return queued == cudaSuccess ? CUDNN_STATUS_SUCCESS : wrong(CUDNN_STATUS_EXECUTION_FAILED_CUDART, "cannot be queued");
}

}  // namespace

std::string text_of(const FakeDescriptor& descriptor) { return json_of(descriptor).dump(); }

std::shared_ptr<FakeDescriptor> descriptor_of(const std::string& text) {
  const Json json = Json::parse(text, nullptr, false);
  return json.is_object() && json.contains("values") ? from_json(json) : nullptr;
}

FakeCudnn& fake_cudnn() { return state; }

namespace {

const cuda::Cudnn& fake_cudnn_table() {
  static const cuda::Cudnn* const table = [] {
    auto* const t = new cuda::Cudnn;
    t->cudnnGetVersion.set([]() -> size_t { return CUDNN_VERSION; });
    t->cudnnGetErrorString.set(error_string);
    t->cudnnGetLastErrorString.set(last_error);
    t->cudnnCreate.set(create_handle);
    t->cudnnDestroy.set(destroy_handle);
    t->cudnnSetStream.set(set_stream);
    t->cudnnBackendCreateDescriptor.set(create);
    t->cudnnBackendDestroyDescriptor.set(destroy);
    t->cudnnBackendSetAttribute.set(set);
    t->cudnnBackendGetAttribute.set(get);
    t->cudnnBackendFinalize.set(finalize);
    t->cudnnBackendExecute.set(execute);
    return t;
  }();
  return *table;
}

}  // namespace

UsesFakeCudnn::UsesFakeCudnn() {
  if (!fake::state) throw std::runtime_error("only the device of the tests runs graphs of this cuDNN");
  state = {};
  cuda::install_fake(&fake_cudnn_table());
}
UsesFakeCudnn::~UsesFakeCudnn() { cuda::install_fake(static_cast<const cuda::Cudnn*>(nullptr)); }

}  // namespace rp::test
