// Graphs that are built node by node, and their launches.
#include <algorithm>
#include <queue>

#include "reprise/test/cuda/state.h"

namespace rp::fake {
namespace {

Graph* graph_of(cudaGraph_t graph) {
  auto* const g = reinterpret_cast<Graph*>(graph);
  if (state->graphs.contains(g)) return g;
  state->find("a graph that does not exist");
  return nullptr;
}

Exec* exec_of(cudaGraphExec_t exec) {
  auto* const e = reinterpret_cast<Exec*>(exec);
  if (state->execs.contains(e)) return e;
  state->find("an executable graph that does not exist");
  return nullptr;
}

cudaError_t create(cudaGraph_t* graph, unsigned) {
  auto* const g = new Graph;
  state->graphs.insert(g);
  *graph = reinterpret_cast<cudaGraph_t>(g);
  return cudaSuccess;
}

cudaError_t destroy(cudaGraph_t graph) {
  Graph* const g = graph_of(graph);
  if (!g) return cudaErrorInvalidValue;
  state->graphs.erase(g);
  delete g;
  return cudaSuccess;
}

cudaError_t add(cudaGraphNode_t* node, cudaGraph_t graph, const cudaGraphNode_t* before, size_t count, Work work) {
  Graph* const g = graph_of(graph);
  if (!g) return cudaErrorInvalidValue;
  if (const cudaError_t wrong = state->check(work); wrong != cudaSuccess) return wrong;
  auto made = std::make_unique<Node>();
  made->work = std::move(work);
  for (size_t i = 0; i < count; ++i) made->before.push_back(reinterpret_cast<Node*>(before[i]));
  *node = reinterpret_cast<cudaGraphNode_t>(made.get());
  g->nodes.push_back(std::move(made));
  return cudaSuccess;
}

cudaError_t add_kernel(cudaGraphNode_t* node, cudaGraph_t graph, const cudaGraphNode_t* before, size_t count,
                       const cudaKernelNodeParams* parameters) {
  Work work{.kind = Work::Kind::kernel};
  const cudaError_t wrong = kernel_work(work, *parameters, {});
  return wrong != cudaSuccess ? wrong : add(node, graph, before, count, std::move(work));
}

cudaError_t add_copy(cudaGraphNode_t* node, cudaGraph_t graph, const cudaGraphNode_t* before, size_t count, void* to,
                     const void* from, size_t bytes, cudaMemcpyKind) {
  return add(node, graph, before, count, {.kind = Work::Kind::copy, .to = to, .from = from, .bytes = bytes});
}

/// Only copies of one row.
cudaError_t add_copy_3d(cudaGraphNode_t* node, cudaGraph_t graph, const cudaGraphNode_t* before, size_t count,
                        const cudaMemcpy3DParms* p) {
  if (p->extent.height != 1 || p->extent.depth != 1)
    return state->find("a copy of several rows", cudaErrorNotSupported);
  const auto place = [](const cudaPitchedPtr& data, const cudaPos& at) { return static_cast<char*>(data.ptr) + at.x; };
  return add_copy(node, graph, before, count, place(p->dstPtr, p->dstPos), place(p->srcPtr, p->srcPos), p->extent.width,
                  p->kind);
}

cudaError_t add_fill(cudaGraphNode_t* node, cudaGraph_t graph, const cudaGraphNode_t* before, size_t count,
                     const cudaMemsetParams* p) {
  if (p->height != 1 || p->elementSize != 1) return state->find("a fill of several rows", cudaErrorNotSupported);
  return add(node, graph, before, count,
             {.kind = Work::Kind::fill, .to = p->dst, .bytes = p->width, .value = static_cast<int>(p->value)});
}

/// The nodes of another graph, and one that waits for all of them.
cudaError_t add_child(cudaGraphNode_t* node, cudaGraph_t graph, const cudaGraphNode_t* before, size_t count,
                      cudaGraph_t child) {
  Graph *const g = graph_of(graph), *const from = graph_of(child);
  if (!g || !from) return cudaErrorInvalidValue;
  std::map<const Node*, Node*> made;
  for (const auto& n : from->nodes) {
    auto copy = std::make_unique<Node>();
    copy->work = n->work;
    for (const Node* const b : n->before) copy->before.push_back(made.at(b));
    for (size_t i = 0; i < count && n->before.empty(); ++i) copy->before.push_back(reinterpret_cast<Node*>(before[i]));
    made[n.get()] = copy.get();
    g->nodes.push_back(std::move(copy));
  }
  const cudaError_t status = add(node, graph, before, count, {.kind = Work::Kind::call, .call = [] {}});
  for (const auto& n : from->nodes) {
    g->nodes.back()->before.push_back(made.at(n.get()));
    g->nodes.back()->child.push_back(made.at(n.get()));
  }
  return status;
}

cudaError_t set_attribute(cudaGraphNode_t node, cudaLaunchAttributeID id, const cudaLaunchAttributeValue* value) {
  Work& work = reinterpret_cast<Node*>(node)->work;
  if (id == cudaLaunchAttributeCooperative)
    work.shape.cooperative = value->cooperative;
  else if (id == cudaLaunchAttributeClusterDimension)
    work.shape.cluster = value->clusterDim.x;
  else
    return cudaErrorNotSupported;
  return check_shape(*work.function, work.shape);
}

cudaError_t get_nodes(cudaGraph_t graph, cudaGraphNode_t* nodes, size_t* count) {
  const Graph* const g = graph_of(graph);
  if (!g) return cudaErrorInvalidValue;
  if (nodes)
    for (size_t i = 0; i < std::min(*count, g->nodes.size()); ++i)
      nodes[i] = reinterpret_cast<cudaGraphNode_t>(g->nodes[i].get());
  *count = g->nodes.size();
  return cudaSuccess;
}

/// Of the nodes that could run, the one that was added last does, so that an edge that is missing shows.
std::vector<size_t> order_of(const Graph& graph, const std::map<const Node*, size_t>& index) {
  std::vector<size_t> missing(graph.nodes.size()), order;
  std::vector<std::vector<size_t>> after(graph.nodes.size());
  std::priority_queue<size_t> ready;
  for (size_t i = 0; i < graph.nodes.size(); ++i) {
    missing[i] = graph.nodes[i]->before.size();
    if (missing[i] == 0) ready.push(i);
    for (const Node* const before : graph.nodes[i]->before) after[index.at(before)].push_back(i);
  }
  while (!ready.empty()) {
    const size_t next = ready.top();
    ready.pop();
    order.push_back(next);
    for (const size_t i : after[next])
      if (--missing[i] == 0) ready.push(i);
  }
  return order;
}

cudaError_t instantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
  const Graph* const g = graph_of(graph);
  if (!g) return cudaErrorInvalidValue;
  auto* const e = new Exec;
  for (const auto& node : g->nodes) {
    e->index[node.get()] = e->work.size();
    e->work.push_back(node->work);
  }
  e->order = order_of(*g, e->index);
  state->execs.insert(e);
  *exec = reinterpret_cast<cudaGraphExec_t>(e);
  return cudaSuccess;
}

cudaError_t destroy_exec(cudaGraphExec_t exec) {
  Exec* const e = exec_of(exec);
  if (!e) return cudaErrorInvalidValue;
  state->execs.erase(e);
  delete e;
  return cudaSuccess;
}

/// The work of a node of an executable graph, or null.
Work* work_of(cudaGraphExec_t exec, cudaGraphNode_t node, Work::Kind kind) {
  Exec* const e = exec_of(exec);
  if (!e) return nullptr;
  const auto found = e->index.find(reinterpret_cast<Node*>(node));
  if (found != e->index.end() && e->work[found->second].kind == kind) return &e->work[found->second];
  state->find("a node that the graph does not have");
  return nullptr;
}

cudaError_t set_kernel(cudaGraphExec_t exec, cudaGraphNode_t node, const cudaKernelNodeParams* parameters) {
  Work* const work = work_of(exec, node, Work::Kind::kernel);
  if (!work) return cudaErrorInvalidValue;
  Work changed{.kind = Work::Kind::kernel};
  if (const cudaError_t wrong = kernel_work(changed, *parameters, work->shape); wrong != cudaSuccess) return wrong;
  *work = std::move(changed);
  return cudaSuccess;
}

cudaError_t set_copy(cudaGraphExec_t exec, cudaGraphNode_t node, void* to, const void* from, size_t bytes,
                     cudaMemcpyKind) {
  Work* const work = work_of(exec, node, Work::Kind::copy);
  if (!work) return cudaErrorInvalidValue;
  const Work changed{.kind = Work::Kind::copy, .to = to, .from = from, .bytes = bytes};
  if (const cudaError_t wrong = state->check(changed); wrong != cudaSuccess) return wrong;
  *work = changed;
  return cudaSuccess;
}

cudaError_t set_fill(cudaGraphExec_t exec, cudaGraphNode_t node, const cudaMemsetParams* p) {
  Work* const work = work_of(exec, node, Work::Kind::fill);
  if (!work) return cudaErrorInvalidValue;
  const Work changed{.kind = Work::Kind::fill, .to = p->dst, .bytes = p->width, .value = static_cast<int>(p->value)};
  if (const cudaError_t wrong = state->check(changed); wrong != cudaSuccess) return wrong;
  *work = changed;
  return cudaSuccess;
}

/// The same nodes with other arguments.
cudaError_t set_child(cudaGraphExec_t exec, cudaGraphNode_t node, cudaGraph_t child) {
  Exec* const e = exec_of(exec);
  const Graph* const from = graph_of(child);
  if (!from || !work_of(exec, node, Work::Kind::call)) return cudaErrorInvalidValue;
  const std::vector<Node*>& nodes = reinterpret_cast<Node*>(node)->child;
  if (nodes.size() != from->nodes.size()) return cudaErrorGraphExecUpdateFailure;
  for (size_t i = 0; i < nodes.size(); ++i) {
    const Work& work = from->nodes[i]->work;
    if (work.kind != nodes[i]->work.kind || work.function != nodes[i]->work.function)
      return cudaErrorGraphExecUpdateFailure;
    e->work[e->index.at(nodes[i])] = work;
  }
  return cudaSuccess;
}

cudaError_t upload(cudaGraphExec_t exec, cudaStream_t stream) {
  return exec_of(exec) && state->stream(stream) ? cudaSuccess : cudaErrorInvalidValue;
}

cudaError_t launch(cudaGraphExec_t exec, cudaStream_t stream) {
  const Exec* const e = exec_of(exec);
  StreamState* const s = state->stream(stream);
  if (!e || !s) return cudaErrorInvalidValue;
  if (s->capture) return state->find("a graph within a capture", cudaErrorNotSupported);
  for (const Work& work : e->work)
    if (work.kind == Work::Kind::kernel)
      state->launched.push_back({work.function->name, work.shape.blocks, work.shape.threads, work.shape.shared_bytes,
                                 work.shape.cluster, work.shape.cooperative});
  s->queue.push_back([work = e->work, order = e->order] {
    for (const size_t i : order) state->run(work[i]);
  });
  return cudaSuccess;
}

}  // namespace

void put_graphs(cuda::Runtime& table) {
  put<create>(table.cudaGraphCreate);
  put<destroy>(table.cudaGraphDestroy);
  put<add_child>(table.cudaGraphAddChildGraphNode);
  put<add_kernel>(table.cudaGraphAddKernelNode);
  put<set_attribute>(table.cudaGraphKernelNodeSetAttribute);
  put<add_copy>(table.cudaGraphAddMemcpyNode1D);
  put<add_copy_3d>(table.cudaGraphAddMemcpyNode);
  put<add_fill>(table.cudaGraphAddMemsetNode);
  put<get_nodes>(table.cudaGraphGetNodes);
  put<instantiate>(table.cudaGraphInstantiate);
  put<destroy_exec>(table.cudaGraphExecDestroy);
  put<set_child>(table.cudaGraphExecChildGraphNodeSetParams);
  put<set_kernel>(table.cudaGraphExecKernelNodeSetParams);
  put<set_copy>(table.cudaGraphExecMemcpyNodeSetParams1D);
  put<set_fill>(table.cudaGraphExecMemsetNodeSetParams);
  put<upload>(table.cudaGraphUpload);
  put<launch>(table.cudaGraphLaunch);
}

}  // namespace rp::fake
