pub mod copy;
pub mod digest;
pub mod extract;
pub mod layer;
pub mod reference;
pub mod tar_stream;
pub mod metadata;
pub use digest::{Digest, DigestError};
pub use reference::{Reference, ReferenceError};
