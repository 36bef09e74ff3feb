"""What people read: the terminal, figures and the HTML report."""
