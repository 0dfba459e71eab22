"""What keeps long runs safe: files, checkpoints, processes, evaluation. The method never imports it, except `marlearn.files`"""
