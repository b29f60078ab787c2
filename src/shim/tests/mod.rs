//! Real containers through spawner and shim, by the protocol, judged by the kernel.

mod harness;

mod hostile;

mod lifecycle;

mod pressure;
