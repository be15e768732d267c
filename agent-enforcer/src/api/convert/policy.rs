//! The policy in force.

use super::{path, path_bytes, texts};
use crate::{api::wire, control::PolicyView};

both_ways!(PolicyView, wire::PolicyResponse {
    generation, yaml;
    directory = directory (path_bytes, path),
    cedar = cedar (texts, texts)
});
