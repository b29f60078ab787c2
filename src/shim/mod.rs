//! The process beside a container: protocol, supervision, stdio, exit record.
