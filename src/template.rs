//! The files of `templates/`, embedded: the only place that does so.
