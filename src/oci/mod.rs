//! OCI image-spec v1.1 and distribution-spec v1.1: documents, layouts, registries.
