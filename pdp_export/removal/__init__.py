"""Physical channel removal: facts, plan, rewrite, proof."""
