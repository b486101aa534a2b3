//! Edge agents: what runs the pods that a cluster far away decides on; one file an agent.

pub mod kubeedge;
