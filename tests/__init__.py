"""Tests compile a great deal and compute little: without LLVM's optimisations they take a third less time or better."""

QUICK_COMPILATION = "--xla_backend_optimization_level=0"
