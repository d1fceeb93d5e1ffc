#pragma once
// The data that the samples learn from.
#include <string>

#include "reprise/reprise.h"

namespace samples {

/// `count` points on three arms of a spiral, and the number of the arm. x: f32 [2], y: i64 []
rp::Dataset<2> spirals(int64_t count);

/// Fashion-MNIST (Xiao, Rasul and Vollgraf, 2017): 60,000 images for training, or 10,000 others. x: f32 [28, 28], y:
/// i32 []
rp::Dataset<2> fashion_mnist(const std::string& folder, bool training);

/// Pieces of `steps` bytes of the files in a folder, and the same shifted by one. x, y: i32 [steps]
rp::Dataset<2> text_pieces(const std::string& folder, int64_t steps);

}  // namespace samples
