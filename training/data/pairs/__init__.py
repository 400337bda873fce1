"""The pair factory: pairs of pictures of one subject, as Toffee-5M's were made (Toffee, section 2.1)."""
