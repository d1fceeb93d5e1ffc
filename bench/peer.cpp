#include "reprise/bench/peer.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <thread>
#include <utility>

namespace bench {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr double start_limit_s = 120;

/// The environment of a peer: as many threads for every library that a peer may use, and no accelerator unless it is
/// to compute on one, where peers take the memory that they need, as others have to live beside them.
std::vector<std::string> environment(const PeerSettings& s) {
  std::vector<std::string> all;
  const std::string n = std::to_string(s.threads);
  for (const char* name : {"OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NPROC"})
    all.push_back(fmt::format("{}={}", name, n));
  all.insert(all.end(), {"PYTHONUNBUFFERED=1", "PYTHONWARNINGS=ignore"});
  if (s.cuda)
    all.insert(all.end(), {"PEER_DEVICE=cuda", "XLA_PYTHON_CLIENT_PREALLOCATE=false"});
  else
    all.insert(all.end(), {"PEER_DEVICE=cpu", "JAX_PLATFORMS=cpu", "CUDA_VISIBLE_DEVICES=",
                           fmt::format("XLA_FLAGS=--xla_cpu_multi_thread_eigen={}", s.threads > 1 ? "true" : "false")});
  // Compiled code is made for a device and a number of threads.
  const std::string cache = fmt::format("peers-inductor/{}", s.cuda ? "cuda" : n);
  all.push_back(fmt::format("TORCHINDUCTOR_CACHE_DIR={}", (fs::absolute(s.scratch) / cache).string()));
  return all;
}

/// What the child does between fork and exec.
[[noreturn]] void become(char* const* command, char* const* variables, int in, int out, int log) {
  setpgid(0, 0);  // a peer's own children go with it
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  dup2(in, STDIN_FILENO);
  dup2(out, STDOUT_FILENO);
  dup2(log, STDERR_FILENO);
  for (; *variables; ++variables) putenv(*variables);
  execvp(command[0], command);
  _exit(127);
}

std::vector<char*> pointers(std::vector<std::string>& strings) {
  std::vector<char*> all;
  for (std::string& s : strings) all.push_back(s.data());
  all.push_back(nullptr);
  return all;
}

}  // namespace

Peer::Peer(PeerProgram program, const PeerSettings& settings)
    : program_(std::move(program)), settings_(settings), log_(settings.scratch + "/peer-" + program_.name + ".log") {
  signal(SIGPIPE, SIG_IGN);
  std::error_code none;
  fs::remove(log_, none);
}

Peer::~Peer() { stop(); }

void Peer::start() {
  if (process_) return;
  if (!program_.missing.empty()) throw PeerError(program_.missing);
  int question[2], answer[2];
  const int log = open(log_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (log < 0 || pipe2(question, O_CLOEXEC) || pipe2(answer, O_CLOEXEC)) throw PeerError("cannot make pipes");
  std::vector<std::string> variables = environment(settings_);
  const std::vector<char*> command = pointers(program_.command), extra = pointers(variables);
  buffer_.clear();
  process_ = fork();
  if (process_ == 0) become(command.data(), extra.data(), question[0], answer[1], log);
  for (int fd : {log, question[0], answer[1]}) close(fd);
  to_ = question[1];
  from_ = answer[0];
  const nlohmann::json hello = nlohmann::json::parse(receive(start_limit_s));
  if (hello.contains("error")) {
    program_.missing = hello["error"];  // there is no sense in trying again
    give_up(program_.missing);
  }
  version_ = hello.at("version");
}

void Peer::stop() noexcept {
  if (process_ <= 0) return;
  kill(-process_, SIGKILL);
  kill(process_, SIGKILL);
  waitpid(process_, nullptr, 0);
  close(to_);
  close(from_);
  process_ = 0;
}

void Peer::give_up(const std::string& why) {
  stop();
  throw PeerError(why);
}

void Peer::send(const std::string& line) {
  for (size_t done = 0; done < line.size();) {
    const ssize_t n = write(to_, line.data() + done, line.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) give_up("it has ended; see " + log_);
    done += static_cast<size_t>(n);
  }
}

std::string Peer::receive(double limit_s) {
  const auto end = Clock::now() + std::chrono::duration<double>(limit_s);
  for (;;) {
    if (const size_t at = buffer_.find('\n'); at != std::string::npos) {
      std::string line = buffer_.substr(0, at);
      buffer_.erase(0, at + 1);
      return line;
    }
    const double left = std::chrono::duration<double, std::milli>(end - Clock::now()).count();
    pollfd ready{from_, POLLIN, 0};
    if (left <= 0) give_up(fmt::format("no answer in {:.0f} s", limit_s));
    if (poll(&ready, 1, static_cast<int>(left) + 1) <= 0) continue;
    char piece[4096];
    const ssize_t n = read(from_, piece, sizeof piece);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) give_up("it has ended; see " + log_);
    buffer_.append(piece, static_cast<size_t>(n));
  }
}

nlohmann::json Peer::ask(const nlohmann::json& question) {
  start();
  send(question.dump() + '\n');
  nlohmann::json answer = nlohmann::json::parse(receive(settings_.limit_s), nullptr, false);
  if (answer.is_discarded()) give_up("it answered something else than JSON");
  if (answer.contains("error")) throw PeerError(answer["error"].get<std::string>());
  return answer;
}

std::vector<Digest> Peer::prepare(const std::string& key, const Spec& spec, const std::string& form, int calls) {
  return ask({{"prepare", key}, {"spec", spec}, {"form", form}, {"calls", calls}}).at("digests");
}

double Peer::run(const std::string& key, int64_t calls) {
  const double ns = ask({{"run", key}, {"calls", calls}}).at("ns");
  // Its threads may go on looking for work for a while after a parallel region.
  if (settings_.threads > 1) std::this_thread::sleep_for(std::chrono::milliseconds(3));
  return ns;
}

void Peer::drop() {
  if (process_) ask({{"drop", true}});
}

std::vector<PeerProgram> peer_programs(const PeerSettings& settings, std::string python) {
  const std::string libtorch = settings.build + "/bench/peers/libtorch_peer";
  const std::string sources = settings.build + "/include/reprise/bench/peers/";
  if (python.empty()) python = settings.build + "/peers-venv/bin/python";
  std::vector<PeerProgram> all;
  if (!settings.cuda) all.push_back({"libtorch", {libtorch}});
  for (const char* name : {"torch", "torch-graph", "torch-compile"})
    if (settings.cuda || name != std::string("torch-graph"))
      all.push_back({name, {python, sources + "torch_peer.py", name}});
  all.push_back({"jax", {python, sources + "jax_peer.py", "jax"}});
  if (!settings.cuda) all.push_back({"onnxruntime", {python, sources + "onnx_peer.py", "onnxruntime"}});
  for (PeerProgram& p : all)
    if (p.command[0].find('/') != std::string::npos && !fs::exists(p.command[0]))
      p.missing = p.command[0] + " is not there: see ./dev bench --peers";
  return all;
}

}  // namespace bench
