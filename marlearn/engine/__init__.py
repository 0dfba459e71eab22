"""The engine: files, long runs, processes and measuring at scale, around the method"""
