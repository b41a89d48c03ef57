//! Losses and training loops, a file each: numbers in, gradients out.
