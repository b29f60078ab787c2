//! The REST surface: wire types, conversion, routes, streams; and the client.
