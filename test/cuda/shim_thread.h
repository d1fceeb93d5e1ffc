#pragma once
// What a kernel that was compiled for the processor and the program that runs it know of each other.

namespace rp_shim {

struct Index {
  unsigned x = 0, y = 0, z = 0;
};

struct Block {
  Index index, size, grid;
  char* shared = nullptr;
  unsigned cluster_rank = 0, cluster_size = 1;
};

/// One CUDA thread as its kernel sees it.
struct Thread {
  Index index;
  const Block* block = nullptr;
  unsigned lane = 0;
};

/// What threads do with each other. `line` names the place in the text: all who meet must have come to the same.
struct Services {
  void (*block_barrier)(int line);
  void (*grid_barrier)(int line);
  void (*cluster_barrier)(int line);
  /// Meets the lanes of `mask`. `out` takes the `bytes` at `mine` of lane `source`, or of all 32 lanes if that is -1;
  /// all ones for lanes that do not take part.
  void (*exchange)(const void* mine, unsigned bytes, void* out, int source, unsigned mask, int line);
  /// The place in the shared memory of block `rank` of the cluster that `shared` is in one's own.
  char* (*peer)(char* shared, unsigned rank);
  void (*trap)(const char* why);
};

/// How to call a kernel, and what its launch must keep to.
struct Kernel {
  void (*call)(const void* args);
  unsigned argument_bytes, argument_alignment;
  unsigned max_threads;
};

/// Gives a compiled text its services; the result is where it looks for the thread that runs now.
using Connect = const Thread** (*)(const Services*);

}  // namespace rp_shim
