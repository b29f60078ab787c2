//! Images and specifications that want out.
