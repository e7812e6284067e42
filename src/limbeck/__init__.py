"""Limbeck distils strong, slow models into small, fast retrievers, on your own documents."""
