"""What every peer computes, in words; peer.py makes the values in Python, workload.h in C++.

Sizes: `b32-h256-t128` and `b1-h32-t100`: batch B, H hidden units, T steps; as many inputs as hidden units, I = H.
Everything is f32; x is [T, B, I] and the states before the first step are zero.

Values: element i (row by row) of the tensor numbered `id` is, in 32-bit unsigned arithmetic,
    h = i * 0x9E3779B1 + id * 0x85EBCA77;  h ^= h >> 15;  h *= 0xC2B2AE3D;  h ^= h >> 13
    v = (h >> 8) / 2^23 - 1                                        in [-1, 1), exact in f32
x is v; a weight or a bias is v * s with s = 1 / sqrt(H) rounded to f32; a gain of a layer norm is 1 + v * s.

    id  tensor        of
    0   x  [T, B, I]
    1   W  [G*H, I]   all cells
    2   U  [G*H, H]   all cells
    3   b  [G*H]      all but ligru; of lnlstm the bias of the layer norm of the gates
    4   c  [G*H]      gru: the bias of U h
    5   a  [G*H]      lnlstm: the gain of the layer norm of the gates
    6   a2 [H]        lnlstm: the gain of the layer norm of the cell state
    7   b2 [H]        lnlstm: its bias

Cells, with the order of the gates along G*H: rows g*H to g*H + H of W, U, b, c belong to gate g. In the formulas W x,
U h, b and c stand for the rows of the gate at hand, and s is the cell state.
    rnn_tanh  G = 1       h = tanh(W x + U h + b)
    lstm      i, f, g, o  i, f, o = sigmoid(W x + U h + b); g = tanh(W x + U h + b); s = f * s + i * g; h = o * tanh(s)
    gru       r, z, n     r, z = sigmoid(W x + b + U h + c); n = tanh(W x + b + r * (U h + c)); h = (1 - z) * n + z * h
    ligru     z, c        z = sigmoid(W x + U h); c = relu(W x + U h); h = z * h + (1 - z) * c
    lnlstm    i, f, g, o  as lstm, with norm(W x + U h) * a + b, the norm over the whole row of 4H, for W x + U h + b;
                          h = o * tanh(norm(s) * a2 + b2), while s itself is handed on without the norm;
                          norm(v) = (v - mean) / sqrt(variance + 1e-5), the variance divided by the number of elements

Forms: `own` is the peer's layer (its second bias is zero where the cell above has none); `user` is the cell as a user
writes it, all gates in one product, W x and U h in every step; `hoisted` is that with W x of all steps in one product
before the loop.

Timed: forward alone, without what gradients need, giving all h_t; and forward with backward: the loss is the sum of all
h_t, the gradients are those of x and of all parameters.

Checked: `mean_h`, the mean of the last h; `grad_norm`, the root of the sum of squares of the gradients of all tensors
above but x; `x_grad_norm`, the same of x. Two rows agree where mean_h differs by at most 1e-5 and the norms by at most
one part in a thousand.
"""

SIZES = {"b32-h256-t128": (32, 256, 128), "b1-h32-t100": (1, 32, 100)}  # B, H, T
GATES = {"rnn_tanh": 1, "lstm": 4, "gru": 3, "ligru": 2, "lnlstm": 4}
