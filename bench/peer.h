#pragma once
// Other libraries, each in a process of its own that lives as long as the run. Question and answer are lines of JSON;
// a process that is not asked anything waits for its input and uses no processor. bench/README.md has the questions.
#include <sys/types.h>

#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "reprise/bench/peers/workload.h"

namespace bench {

/// A peer that is not there, does not know a workload, fails or takes too long.
struct PeerError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// How to start a peer.
struct PeerProgram {
  std::string name;
  std::vector<std::string> command;
  std::string missing = {};  ///< why it cannot be started; empty if it can
};

/// What holds for all peers of a run.
struct PeerSettings {
  int threads = 1;
  double limit_s = 150;  ///< for an answer
  std::string build;     ///< the folder of the build
  std::string scratch;   ///< a folder for logs and for what they compile
  bool cuda = false;     ///< they compute on the CUDA device
};

class Peer {
 public:
  Peer(PeerProgram program, const PeerSettings& settings);
  ~Peer();
  Peer(const Peer&) = delete;

  const std::string& name() const { return program_.name; }
  const std::string& version() const { return version_; }

  /// Builds a workload under a key and calls it `calls` times. Returns the digests of the last call's results.
  std::vector<Digest> prepare(const std::string& key, const Spec& spec, const std::string& form, int calls);
  /// Calls it again and again; the time of all calls in ns.
  double run(const std::string& key, int64_t calls);
  /// Forgets all workloads.
  void drop();

 private:
  void start();
  void stop() noexcept;
  nlohmann::json ask(const nlohmann::json& question);
  void send(const std::string& line);
  std::string receive(double limit_s);
  [[noreturn]] void give_up(const std::string& why);

  PeerProgram program_;
  PeerSettings settings_;
  std::string log_, version_, buffer_;
  pid_t process_ = 0;
  int to_ = -1, from_ = -1;
};

/// All peers known on that kind of device, in the order of the table. `python` runs those in Python, where it is not
/// that of `./dev bench --peers`.
std::vector<PeerProgram> peer_programs(const PeerSettings& settings, std::string python);

}  // namespace bench
