"""The plumbing of evalgen: what runs on Ray. The science is in the package `evalgen`, which never imports Ray."""
